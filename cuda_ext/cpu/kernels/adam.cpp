// Adam over rows. Mirrors splatseg/ops/reference/adam.py.
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
  T beta1, beta2, eps, v_scale, norm_scale;
};

// The loops over channels are plain so that the compiler vectorizes them for any D (0: `channels` of them). The rates (d,) hold
// lr times the step's size.
template <class T, int D, bool PULLED>
SPLATSEG_INLINE void move_row(const Scalars<T>& s, int64_t channels, const T* __restrict rates, T* __restrict f,
                              T* __restrict m, T* __restrict v, const T* __restrict g, T pull) {
  const int64_t d = D ? D : channels;
#pragma GCC ivdep
  for (int64_t c = 0; c < d; c++) {
    const T gradient = PULLED ? g[c] + pull * f[c] : g[c];
    const T mean = s.beta1 * m[c] + (1 - s.beta1) * gradient;
    const T square = s.beta2 * v[c] + (1 - s.beta2) * gradient * gradient;
    m[c] = mean;
    v[c] = square;
    f[c] -= rates[c] * mean / (root(square) * s.v_scale + s.eps);
  }
}

template <class T, int D>
SPLATSEG_INLINE void update_row(const Scalars<T>& s, int64_t channels, const T* rates, T* f, T* m, T* v, const T* g) {
  const int64_t d = D ? D : channels;
  if (s.norm_scale == 0) return move_row<T, D, false>(s, d, rates, f, m, v, g, 0);
  const T norm = root(sum_squares(f, d));
  move_row<T, D, true>(s, d, rates, f, m, v, g, norm > 0 ? s.norm_scale * (1 - 1 / norm) : 0);
}

// Rows of blocks share, share + shares, ... of kShareBlock that are set in some part, a few at a time: known ahead, they can be
// fetched ahead.
struct ListedRows {
  static constexpr int64_t kRoom = 16 * kShareBlock;
  const AdamJob& job;
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
        for (int64_t part = 0; part < job.parts; part++) flags |= job.rows ? job.rows[part * job.n + i] : 1;
        rows[count] = i;
        count += flags != 0;
      }
    }
    return count > 0;
  }
};

constexpr int64_t kRowsAhead = 6;

template <class T>
SPLATSEG_INLINE void prefetch_row(const AdamJob& job, int64_t i, int64_t d) {
  const void* const matrices[] = {job.params, job.exp_avg, job.exp_avg_sq};
  for (const void* matrix : matrices)
    for (int64_t c = 0; c < d; c += 64 / sizeof(T)) __builtin_prefetch((const T*)matrix + i * d + c, 1);
  for (int64_t part = 0; part < job.parts; part++)
    if (!job.rows || job.rows[part * job.n + i]) __builtin_prefetch((const T*)job.grad + (part * job.n + i) * d, 1);
}

// Adds the parts of the gradient of row i up in `sum` (d), and clears them and their flags where that is wanted. A part in which
// the row is not set reads and clears `nothing` (d), all zeros, in place of its own: which are is random, and a wrong guess
// costs more.
template <class T, int D>
SPLATSEG_INLINE void take_gradient(const AdamJob& job, int64_t i, T* __restrict sum, T* nothing) {
  const int64_t d = D ? D : job.d;
  for (int64_t part = 0; part < job.parts; part++) {
    const int64_t row = part * job.n + i;
    T* grad = !job.rows || job.rows[row] ? (T*)job.grad + row * d : nothing;
    for (int64_t c = 0; c < d; c++) sum[c] = part ? sum[c] + grad[c] : grad[c];
    if (!job.clears) continue;
    if (job.rows) job.rows[row] = 0;
    for (int64_t c = 0; c < d; c++) grad[c] = 0;
  }
}

// Rows whose gradients are summed over parts and cleared: few, scattered ones.
template <class T, int D>
int64_t update_listed(const AdamJob& job, Scalars<T> s, const T* rates, T* scratch, int64_t share, int64_t shares) {
  const int64_t d = D ? D : job.d;
  T *params = (T*)job.params, *exp_avg = (T*)job.exp_avg, *exp_avg_sq = (T*)job.exp_avg_sq;
  T *grad = scratch, *nothing = scratch + d;
  ListedRows listed{job, share * kShareBlock, shares * kShareBlock};
  int64_t bad = -1;
  while (listed.next()) {
    for (int64_t j = 0; j < listed.count; j++) {
      if (j + kRowsAhead < listed.count) prefetch_row<T>(job, listed.rows[j + kRowsAhead], d);
      const int64_t i = listed.rows[j];
      take_gradient<T, D>(job, i, grad, nothing);
      if (!job.checks || all_finite(grad, d)) {
        update_row<T, D>(s, d, rates, params + i * d, exp_avg + i * d, exp_avg_sq + i * d, grad);
      } else if (bad < 0) {
        bad = i;
      }
    }
  }
  return bad;
}

// Rows [begin, end) as they come, with nothing to be known of a row as a whole: the geometry's. Apart from update_in_place, as the
// compiler makes the most of it when nothing else is in the loop.
template <class T>
void move_rows(T* __restrict f, T* __restrict m, T* __restrict v, const T* __restrict g, const T* __restrict rates,
               const uint8_t* __restrict rows, int64_t begin, int64_t end, int64_t d, Scalars<T> s) {
  const T beta1 = s.beta1, beta2 = s.beta2, eps = s.eps, v_scale = s.v_scale;
  for (int64_t i = begin; i < end; i++) {
    if (rows && !rows[i]) continue;
    const int64_t at = i * d;
#pragma GCC ivdep
    for (int64_t c = 0; c < d; c++) {
      const T gradient = g[at + c];
      const T mean = beta1 * m[at + c] + (1 - beta1) * gradient;
      const T square = beta2 * v[at + c] + (1 - beta2) * gradient * gradient;
      m[at + c] = mean;
      v[at + c] = square;
      f[at + c] -= rates[c] * mean / (root(square) * v_scale + eps);
    }
  }
}

// Rows whose gradient is one part and stays: most of them, one after the other.
template <class T>
int64_t update_in_place(const AdamJob& job, Scalars<T> s, const T* rates, int64_t begin, int64_t end) {
  const int64_t d = job.d;
  T *params = (T*)job.params, *exp_avg = (T*)job.exp_avg, *exp_avg_sq = (T*)job.exp_avg_sq;
  const T* grad = (const T*)job.grad;
  int64_t bad = -1;
  if (!job.checks && s.norm_scale == 0) {
    move_rows(params, exp_avg, exp_avg_sq, grad, rates, job.rows, begin, end, d, s);
    return bad;
  }
  for (int64_t i = begin; i < end; i++) {
    if (job.rows && !job.rows[i]) continue;
    const int64_t at = i * d;
    if (!job.checks || all_finite(grad + at, d)) {
      update_row<T, 0>(s, d, rates, params + at, exp_avg + at, exp_avg_sq + at, grad + at);
    } else if (bad < 0) {
      bad = i;
    }
  }
  return bad;
}

template <class T>
int64_t update(const AdamJob& job, T* scratch, int64_t share, int64_t shares) {
  const Scalars<T> s = {(T)job.beta1, (T)job.beta2, (T)job.eps, (T)job.v_scale, (T)job.norm_scale};
  T *rates = scratch, *rest = scratch + job.d;
  for (int64_t c = 0; c < job.d; c++) rates[c] = (job.lr ? ((const T*)job.lr)[c] : (T)1) * (T)job.step_size;
  if (job.parts == 1 && !job.clears)
    return update_in_place(job, s, rates, job.n * share / shares, job.n * (share + 1) / shares);
  switch (job.d) {
    case 8: return update_listed<T, 8>(job, s, rates, rest, share, shares);
    case 16: return update_listed<T, 16>(job, s, rates, rest, share, shares);
    case 24: return update_listed<T, 24>(job, s, rates, rest, share, shares);
    case 32: return update_listed<T, 32>(job, s, rates, rest, share, shares);
    default: return update_listed<T, 0>(job, s, rates, rest, share, shares);
  }
}

}  // namespace

int64_t adam_float(const AdamJob& job, void* scratch, int64_t share, int64_t shares) {
  return update(job, (float*)scratch, share, shares);
}

int64_t adam_double(const AdamJob& job, void* scratch, int64_t share, int64_t shares) {
  return update(job, (double*)scratch, share, shares);
}

}  // namespace splatseg::SPLATSEG_ISA
