// 8-lane vectors over GCC/Clang vector extensions: the same source becomes SSE2, AVX2 or AVX-512VL code (or NEON).
// Include only from cpu/kernels/*.cpp, which are compiled once per instruction set with SPLATSEG_ISA set. Nothing here may
// instantiate std:: templates: a weak symbol compiled for AVX-512 could be the copy that the linker keeps for everyone
// (setup.py checks the objects for that).
#pragma once

#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace splatseg::SPLATSEG_ISA {

constexpr int kLanes = 8;

typedef float f32x8 __attribute__((vector_size(32)));
typedef int32_t i32x8 __attribute__((vector_size(32)));
typedef uint32_t u32x8 __attribute__((vector_size(32)));
typedef double f64x8 __attribute__((vector_size(64)));
typedef int64_t i64x8 __attribute__((vector_size(64)));

// Vec<T>: the 8-lane vector of scalar T and the type of its comparison masks (all ones = true).
template <class T> struct VecOf;
template <> struct VecOf<float> { typedef f32x8 type; typedef i32x8 mask; typedef int32_t lane_mask; };
template <> struct VecOf<double> { typedef f64x8 type; typedef i64x8 mask; typedef int64_t lane_mask; };
template <class T> using Vec = typename VecOf<T>::type;
template <class T> using Mask = typename VecOf<T>::mask;

#define SPLATSEG_INLINE static inline __attribute__((always_inline))

template <class T> SPLATSEG_INLINE Vec<T> load(const T* p) { Vec<T> v; memcpy(&v, p, sizeof v); return v; }
template <class T> SPLATSEG_INLINE void store(T* p, Vec<T> v) { memcpy(p, &v, sizeof v); }
template <class T> SPLATSEG_INLINE Vec<T> splat(T x) { return Vec<T>{x, x, x, x, x, x, x, x}; }

// b where one of them is a NaN, as the instructions have it: compilers do not find them for `?:`.
#if defined(__AVX__)
SPLATSEG_INLINE f32x8 vmin(f32x8 a, f32x8 b) { return (f32x8)_mm256_min_ps((__m256)a, (__m256)b); }
SPLATSEG_INLINE f32x8 vmax(f32x8 a, f32x8 b) { return (f32x8)_mm256_max_ps((__m256)a, (__m256)b); }
#else
SPLATSEG_INLINE f32x8 vmin(f32x8 a, f32x8 b) { return a < b ? a : b; }
SPLATSEG_INLINE f32x8 vmax(f32x8 a, f32x8 b) { return a > b ? a : b; }
#endif
SPLATSEG_INLINE f64x8 vmin(f64x8 a, f64x8 b) { return a < b ? a : b; }
SPLATSEG_INLINE f64x8 vmax(f64x8 a, f64x8 b) { return a > b ? a : b; }

// One bit a lane, lane 0 lowest.
SPLATSEG_INLINE unsigned bits(i32x8 mask) {
#if defined(__AVX2__)
  return (unsigned)_mm256_movemask_ps((__m256)mask);
#elif defined(__SSE2__)
  typedef int32_t i32x4 __attribute__((vector_size(16)));
  union { i32x8 all; i32x4 half[2]; } u{mask};
  return (unsigned)_mm_movemask_ps((__m128)u.half[0]) | ((unsigned)_mm_movemask_ps((__m128)u.half[1]) << 4);
#else
  unsigned r = 0;
  for (int i = 0; i < kLanes; i++) r |= (unsigned)(mask[i] & 1) << i;
  return r;
#endif
}
SPLATSEG_INLINE unsigned bits(i64x8 mask) {
  unsigned r = 0;
  for (int i = 0; i < kLanes; i++) r |= (unsigned)(mask[i] & 1) << i;
  return r;
}
SPLATSEG_INLINE bool any(i32x8 mask) { return bits(mask) != 0; }
SPLATSEG_INLINE bool any(i64x8 mask) { return bits(mask) != 0; }

// Sum of the lanes in a fixed order (pairwise), so results do not depend on the instruction set's shuffle.
SPLATSEG_INLINE float hsum(f32x8 v) { return ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7])); }
SPLATSEG_INLINE double hsum(f64x8 v) { return ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7])); }

// 2^x for |x| < 126, relative error below 2.2e-7, exact at 0; other lanes are unspecified (for callers that mask them out).
// Rounding by adding 1.5 * 2^23, which -ffast-math would undo. The polynomial, minimax in relative error with p(0) = 1, is
// summed in pairs: half the latency of Horner's scheme.
SPLATSEG_INLINE f32x8 exp2v_near_zero(f32x8 x) {
  const f32x8 shifted = x + 12582912.f;
  const f32x8 f = x - (shifted - 12582912.f);  // in [-0.5, 0.5]
  const f32x8 f2 = f * f;
  const f32x8 low = 6.93147e-1f * f + 1.f, middle = 5.550734e-2f * f + 2.4022242e-1f;
  const f32x8 high = 1.3264653e-3f * f + 9.671511e-3f;
  const f32x8 p = (high * f2 + middle) * f2 + low;
  i32x8 n, r;
  memcpy(&n, &shifted, sizeof n);
  memcpy(&r, &p, sizeof r);
  r += n << 23;  // adds round(x) to the exponent; the constant's low bits are zero
  f32x8 result;
  memcpy(&result, &r, sizeof r);
  return result;
}
SPLATSEG_INLINE f64x8 exp2v_near_zero(f64x8 x) {
  f64x8 r;
  for (int i = 0; i < kLanes; i++) r[i] = ::exp2(x[i]);
  return r;
}

// log2 of positive normal x, absolute error below 2e-7 near 1 and relative error below 2e-7 elsewhere.
SPLATSEG_INLINE f32x8 log2v(f32x8 x) {
  i32x8 i;
  memcpy(&i, &x, sizeof i);
  const i32x8 shifted = i - 0x3F3504F3;  // exponent steps at sqrt(1/2)
  const i32x8 exponent = shifted >> 23;
  i -= exponent << 23;
  f32x8 m;
  memcpy(&m, &i, sizeof m);
  const f32x8 s = (m - 1.f) / (m + 1.f), s2 = s * s;  // log m = 2 atanh(s), |s| < 0.172
  f32x8 p = splat(0.32059889f);
  p = p * s2 + 0.41219858f;
  p = p * s2 + 0.57707801f;
  p = p * s2 + 0.96179669f;
  p = p * s2 + 2.88539008f;
  return p * s + __builtin_convertvector(exponent, f32x8);
}
SPLATSEG_INLINE f64x8 log2v(f64x8 x) {
  f64x8 r;
  for (int i = 0; i < kLanes; i++) r[i] = ::log2(x[i]);
  return r;
}

SPLATSEG_INLINE f32x8 sqrtv(f32x8 x) {
#if defined(__AVX__)
  return (f32x8)_mm256_sqrt_ps((__m256)x);
#else
  f32x8 r;
  for (int i = 0; i < kLanes; i++) r[i] = __builtin_sqrtf(x[i]);
  return r;
#endif
}
SPLATSEG_INLINE f64x8 sqrtv(f64x8 x) {
  f64x8 r;
  for (int i = 0; i < kLanes; i++) r[i] = __builtin_sqrt(x[i]);
  return r;
}

SPLATSEG_INLINE f32x8 absv(f32x8 x) { return (f32x8)((i32x8)x & 0x7FFFFFFF); }
SPLATSEG_INLINE f64x8 absv(f64x8 x) { return (f64x8)((i64x8)x & INT64_MAX); }

// x where the mask is set, +0 elsewhere (also where x is a NaN).
SPLATSEG_INLINE f32x8 keep(i32x8 mask, f32x8 x) { return (f32x8)(mask & (i32x8)x); }
SPLATSEG_INLINE f64x8 keep(i64x8 mask, f64x8 x) { return (f64x8)(mask & (i64x8)x); }

// Lane l: p[l * stride].
template <class T> SPLATSEG_INLINE Vec<T> load_strided(const T* p, int64_t stride) {
  return Vec<T>{p[0],          p[stride],     p[2 * stride], p[3 * stride],
                p[4 * stride], p[5 * stride], p[6 * stride], p[7 * stride]};
}

// Lane i: the sum of the lanes of v[i], always in the same order.
template <class V> SPLATSEG_INLINE V hsum8(const V v[8]) {
  V a[4], b[2];
  for (int i = 0; i < 4; i++)
    a[i] = __builtin_shufflevector(v[2 * i], v[2 * i + 1], 0, 8, 1, 9, 4, 12, 5, 13) +
           __builtin_shufflevector(v[2 * i], v[2 * i + 1], 2, 10, 3, 11, 6, 14, 7, 15);
  for (int i = 0; i < 2; i++)
    b[i] = __builtin_shufflevector(a[2 * i], a[2 * i + 1], 0, 1, 8, 9, 4, 5, 12, 13) +
           __builtin_shufflevector(a[2 * i], a[2 * i + 1], 2, 3, 10, 11, 6, 7, 14, 15);
  return __builtin_shufflevector(b[0], b[1], 0, 1, 2, 3, 8, 9, 10, 11) +
         __builtin_shufflevector(b[0], b[1], 4, 5, 6, 7, 12, 13, 14, 15);
}

// Stores to a 32-byte aligned address that is not read again soon, past the caches where the set can; ends with
// stream_fence() before another thread may read.
SPLATSEG_INLINE void stream(float* p, f32x8 v) {
#if defined(__AVX__)
  _mm256_stream_ps(p, (__m256)v);
#else
  store(p, v);
#endif
}
SPLATSEG_INLINE void stream(double* p, f64x8 v) { store(p, v); }
SPLATSEG_INLINE void stream_fence() {
#if defined(__AVX__)
  _mm_sfence();
#endif
}

}  // namespace splatseg::SPLATSEG_ISA
