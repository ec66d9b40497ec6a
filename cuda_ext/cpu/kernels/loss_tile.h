// Register tiles and small vector functions of the loss kernel. Included once per instruction set, by loss.cpp only.
#pragma once

#include <math.h>
#include <omp.h>

#include "cpu/simd.h"

namespace splatseg::SPLATSEG_ISA {

// Rows of a tile that is V vectors wide, for 16 vector registers: rows x V accumulators, V columns and one broadcast.
template <int V> struct TileRows { static constexpr int value = V == 1 ? 8 : 6; };

// acc[r][v] += sum over q < depth of a[r a_row + q a_step] * b[q b_step + 8 v ...]
template <class T, int R, int V>
SPLATSEG_INLINE void tile(const T* a, int64_t a_row, int64_t a_step, const T* b, int64_t b_step, int64_t depth,
                          Vec<T> (&acc)[R][V]) {
#pragma GCC unroll 16
  for (int64_t q = 0; q < depth; q++) {
    Vec<T> column[V];
#pragma GCC unroll 2
    for (int v = 0; v < V; v++) column[v] = load(b + q * b_step + v * kLanes);
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) {
      const Vec<T> x = splat(a[r * a_row + q * a_step]);
#pragma GCC unroll 2
      for (int v = 0; v < V; v++) acc[r][v] += x * column[v];
    }
  }
}

// c[r c_row + 8 v ...] += the same sum
template <class T, int R, int V>
SPLATSEG_INLINE void add_tile(const T* a, int64_t a_row, int64_t a_step, const T* b, int64_t b_step, int64_t depth, T* c,
                              int64_t c_row) {
  Vec<T> acc[R][V];
#pragma GCC unroll 8
  for (int r = 0; r < R; r++) {
#pragma GCC unroll 2
    for (int v = 0; v < V; v++) acc[r][v] = load(c + r * c_row + v * kLanes);
  }
  tile<T, R, V>(a, a_row, a_step, b, b_step, depth, acc);
#pragma GCC unroll 8
  for (int r = 0; r < R; r++) {
#pragma GCC unroll 2
    for (int v = 0; v < V; v++) store(c + r * c_row + v * kLanes, acc[r][v]);
  }
}

// Below any value that occurs, yet finite: differences with it do not become NaN.
SPLATSEG_INLINE float lowest(float) { return -1e30f; }
SPLATSEG_INLINE double lowest(double) { return -1e300; }

SPLATSEG_INLINE int thread_number() { return omp_get_thread_num(); }

}  // namespace splatseg::SPLATSEG_ISA
