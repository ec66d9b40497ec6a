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
                                const T* __restrict g) {
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
  }
}

// Rows of a share that some part touched, in rising order, a few at a time: known ahead, they can be fetched ahead.
struct TouchedRows {
  static constexpr int64_t kRoom = 16 * kShareBlock;
  const SparseAdamJob& job;
  int64_t block, step;  // the next block's first row, and from there to the one after
  int64_t rows[kRoom];
  int64_t count = 0;

  // False where no row is left.
  bool next() {
    count = 0;
    for (; block < job.n && count + kShareBlock <= kRoom; block += step) {
      const int64_t end = block + kShareBlock < job.n ? block + kShareBlock : job.n;
      for (int64_t i = block; i < end; i++) {
        unsigned flags = 0;
        for (int64_t part = 0; part < job.parts; part++) flags |= job.touched[part * job.n + i];
        rows[count] = i;
        count += flags != 0;
      }
    }
    return count > 0;
  }
};

constexpr int64_t kRowsAhead = 6;

template <class T>
SPLATSEG_INLINE void prefetch_row(const SparseAdamJob& job, int64_t i, int64_t d) {
  const void* const matrices[] = {job.params, job.exp_avg, job.exp_avg_sq};
  for (const void* matrix : matrices)
    for (int64_t c = 0; c < d; c += 64 / sizeof(T)) __builtin_prefetch((const T*)matrix + i * d + c, 1);
  for (int64_t part = 0; part < job.parts; part++)
    if (job.touched[part * job.n + i]) __builtin_prefetch((const T*)job.grad + (part * job.n + i) * d, 1);
}

// Moves the gradient of row i, summed over its parts, to `sum` (d), and clears it and its flags. A part that did not touch the
// row reads and clears `nothing` (d), all zeros, in place of its own: which parts did is random, and a wrong guess costs more.
template <class T, int D>
SPLATSEG_INLINE void take_gradient(const SparseAdamJob& job, int64_t i, T* __restrict sum, T* nothing) {
  const int64_t d = D ? D : job.d;
  for (int64_t part = 0; part < job.parts; part++) {
    const int64_t row = part * job.n + i;
    T* grad = job.touched[row] ? (T*)job.grad + row * d : nothing;
    job.touched[row] = 0;
    for (int64_t c = 0; c < d; c++) sum[c] = part ? sum[c] + grad[c] : grad[c];
    for (int64_t c = 0; c < d; c++) grad[c] = 0;
  }
}

template <class T, int D>
int64_t update(const SparseAdamJob& job, void* scratch, int64_t share, int64_t shares) {
  const int64_t d = D ? D : job.d;
  const Scalars<T> s = {(T)job.step_size, (T)job.beta1, (T)job.beta2, (T)job.eps, (T)job.v_scale, (T)job.norm_scale};
  T *params = (T*)job.params, *exp_avg = (T*)job.exp_avg, *exp_avg_sq = (T*)job.exp_avg_sq;
  T *grad = (T*)scratch, *nothing = grad + d;
  TouchedRows touched{job, share * kShareBlock, shares * kShareBlock};
  int64_t bad = -1;
  while (touched.next()) {
    for (int64_t j = 0; j < touched.count; j++) {
      if (j + kRowsAhead < touched.count) prefetch_row<T>(job, touched.rows[j + kRowsAhead], d);
      const int64_t i = touched.rows[j];
      take_gradient<T, D>(job, i, grad, nothing);
      if (all_finite(grad, d)) {
        update_row<T, D>(s, d, params + i * d, exp_avg + i * d, exp_avg_sq + i * d, grad);
      } else if (bad < 0) {
        bad = i;
      }
    }
  }
  return bad;
}

template <class T>
int64_t update_any(const SparseAdamJob& job, void* scratch, int64_t share, int64_t shares) {
  switch (job.d) {
    case 8: return update<T, 8>(job, scratch, share, shares);
    case 16: return update<T, 16>(job, scratch, share, shares);
    case 24: return update<T, 24>(job, scratch, share, shares);
    case 32: return update<T, 32>(job, scratch, share, shares);
    default: return update<T, 0>(job, scratch, share, shares);
  }
}

}  // namespace

int64_t sparse_adam_float(const SparseAdamJob& job, void* scratch, int64_t share, int64_t shares) {
  return update_any<float>(job, scratch, share, shares);
}

int64_t sparse_adam_double(const SparseAdamJob& job, void* scratch, int64_t share, int64_t shares) {
  return update_any<double>(job, scratch, share, shares);
}

}  // namespace splatseg::SPLATSEG_ISA
