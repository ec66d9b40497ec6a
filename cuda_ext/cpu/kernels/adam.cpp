#include "cpu/adam.h"

#include "cpu/blend.h"
#include "cpu/simd.h"

namespace splatseg::SPLATSEG_ISA {
namespace {

SPLATSEG_INLINE float root(float x) { return sqrtf(x); }
SPLATSEG_INLINE double root(double x) { return sqrt(x); }

template <class T>
SPLATSEG_INLINE T sum_squares(const T* x, int64_t d) {
  Vec<T> lanes = {};
  int64_t c = 0;
  for (; c + kLanes <= d; c += kLanes) lanes += load(x + c) * load(x + c);
  T sum = hsum(lanes);
  for (; c < d; c++) sum += x[c] * x[c];
  return sum;
}

// 0 times a non-finite number is not 0: the sum tells in one comparison whether all are finite.
template <class T>
SPLATSEG_INLINE bool all_finite(const T* x, int64_t d) {
  Vec<T> lanes = {};
  int64_t c = 0;
  for (; c + kLanes <= d; c += kLanes) lanes += load(x + c) * (T)0;
  T sum = hsum(lanes);
  for (; c < d; c++) sum += x[c] * (T)0;
  return sum == 0;
}

template <class T>
struct Scalars {
  T step_size, beta1, beta2, eps, v_scale, norm_scale;
};

// One row; the loops are plain so that the compiler vectorises them for any D (0: job.d channels).
template <class T, int D>
SPLATSEG_INLINE void update_row(const Scalars<T>& s, int64_t channels, T* __restrict f, T* __restrict m, T* __restrict v,
                                T* __restrict g) {
  const int64_t d = D ? D : channels;
  T pull = 0;
  if (s.norm_scale != 0) {
    const T norm = root(sum_squares(f, d));
    pull = norm > 0 ? s.norm_scale * (1 - 1 / norm) : 0;
  }
  for (int64_t c = 0; c < d; c++) {
    const T gradient = g[c] + pull * f[c];
    m[c] = s.beta1 * m[c] + (1 - s.beta1) * gradient;
    v[c] = s.beta2 * v[c] + (1 - s.beta2) * gradient * gradient;
    f[c] -= s.step_size * m[c] / (root(v[c]) * s.v_scale + s.eps);
    g[c] = 0;
  }
}

template <class T, int D>
int64_t update(const SparseAdamJob& job, int64_t share, int64_t shares) {
  const int64_t d = D ? D : job.d;
  const Scalars<T> s = {(T)job.step_size, (T)job.beta1, (T)job.beta2, (T)job.eps, (T)job.v_scale, (T)job.norm_scale};
  T *params = (T*)job.params, *exp_avg = (T*)job.exp_avg, *exp_avg_sq = (T*)job.exp_avg_sq, *grad = (T*)job.grad;
  int64_t bad = -1;
  for (int64_t block = share * kShareBlock; block < job.n; block += shares * kShareBlock) {
    const int64_t end = block + kShareBlock < job.n ? block + kShareBlock : job.n;
    for (int64_t i = block; i < end; i++) {
      if (!job.touched[i]) continue;
      job.touched[i] = 0;
      const int64_t o = i * d;
      if (!all_finite(grad + o, d)) {
        if (bad < 0) bad = i;
        for (int64_t c = 0; c < d; c++) grad[o + c] = 0;
        continue;
      }
      update_row<T, D>(s, d, params + o, exp_avg + o, exp_avg_sq + o, grad + o);
    }
  }
  return bad;
}

template <class T>
int64_t update_any(const SparseAdamJob& job, int64_t share, int64_t shares) {
  switch (job.d) {
    case 8: return update<T, 8>(job, share, shares);
    case 16: return update<T, 16>(job, share, shares);
    case 32: return update<T, 32>(job, share, shares);
    default: return update<T, 0>(job, share, shares);
  }
}

}  // namespace

int64_t sparse_adam_float(const SparseAdamJob& job, int64_t share, int64_t shares) {
  return update_any<float>(job, share, shares);
}

int64_t sparse_adam_double(const SparseAdamJob& job, int64_t share, int64_t shares) {
  return update_any<double>(job, share, shares);
}

}  // namespace splatseg::SPLATSEG_ISA
