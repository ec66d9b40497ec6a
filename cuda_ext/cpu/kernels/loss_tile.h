// Register tiles and small vector functions of the loss kernel. Included once per instruction set, by loss.cpp only.
#pragma once

#include <math.h>
#include <omp.h>

#include "cpu/loss.h"
#include "cpu/simd.h"

namespace splatseg::SPLATSEG_ISA {

// Rows of a tile that is two vectors wide, for 16 vector registers: 12 accumulators, two columns and one broadcast.
constexpr int kTileRows = 6;

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

// mean_grad (R, row) += e (R, lanes) . sf (lanes, row)
template <class T, int R>
SPLATSEG_INLINE void add_mean_grad(const T* e, const T* sf, int64_t row, T* mean_grad) {
  constexpr int64_t W = kBlockLanes;
  int64_t c = 0;
  for (; c + 2 * kLanes <= row; c += 2 * kLanes) add_tile<T, R, 2>(e, W, 1, sf + c, row, W, mean_grad + c, row);
  if (c < row) add_tile<T, R, 1>(e, W, 1, sf + c, row, W, mean_grad + c, row);
}

// Transposes 8 rows of 8 in place.
template <class V>
SPLATSEG_INLINE void transpose8(V (&v)[kLanes]) {
  V a[8], b[8];
  for (int i = 0; i < 4; i++) {
    a[2 * i] = __builtin_shufflevector(v[2 * i], v[2 * i + 1], 0, 8, 2, 10, 4, 12, 6, 14);
    a[2 * i + 1] = __builtin_shufflevector(v[2 * i], v[2 * i + 1], 1, 9, 3, 11, 5, 13, 7, 15);
  }
  for (int i = 0; i < 2; i++) {
    for (int j = 0; j < 2; j++) {
      b[4 * i + j] = __builtin_shufflevector(a[4 * i + j], a[4 * i + j + 2], 0, 1, 8, 9, 4, 5, 12, 13);
      b[4 * i + j + 2] = __builtin_shufflevector(a[4 * i + j], a[4 * i + j + 2], 2, 3, 10, 11, 6, 7, 14, 15);
    }
  }
  for (int i = 0; i < 4; i++) {
    v[i] = __builtin_shufflevector(b[i], b[i + 4], 0, 1, 2, 3, 8, 9, 10, 11);
    v[i + 4] = __builtin_shufflevector(b[i], b[i + 4], 4, 5, 6, 7, 12, 13, 14, 15);
  }
}

// The first `count` scalars at p, all of them from 8 on; the other lanes are 0.
template <class T>
SPLATSEG_INLINE Vec<T> load_part(const T* p, int64_t count) {
  if (count >= kLanes) return load(p);
  Vec<T> v{};
  memcpy(&v, p, count * sizeof(T));
  return v;
}
template <class T>
SPLATSEG_INLINE void store_part(T* p, Vec<T> v, int64_t count) {
  if (count >= kLanes) return store(p, v);
  memcpy(p, &v, count * sizeof(T));
}

// Lanes below `count`, which may be negative or more than there are.
template <class T>
SPLATSEG_INLINE Mask<T> lanes_below(int count) {
  return Mask<T>{0, 1, 2, 3, 4, 5, 6, 7} < (typename VecOf<T>::lane_mask)count;
}

// Below any value that occurs, yet finite: differences with it do not become NaN.
SPLATSEG_INLINE float lowest(float) { return -1e30f; }
SPLATSEG_INLINE double lowest(double) { return -1e300; }

SPLATSEG_INLINE int thread_number() { return omp_get_thread_num(); }

}  // namespace splatseg::SPLATSEG_ISA
