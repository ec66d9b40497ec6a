// Adam over rows of a (n, d) parameter, with a rate per column and the gradient of the feature-norm term. Free of ATen.
#pragma once

#include <cstdint>

#include "cpu/dispatch.h"

namespace splatseg {

// params, exp_avg, exp_avg_sq: (n, d), grad: (parts, n, d), all float or all double. A row that is set in a part of rows
// (parts, n; null: every row) is updated by
//   g = sum over parts of grad + norm_scale * (|f| - 1) f / |f|      (no norm gradient where |f| = 0)
//   m += (1 - beta1)(g - m), v += (1 - beta2)(g g - v), f -= lr * step_size * m / (sqrt(v) * v_scale + eps)
// with lr (d,) of the parameters' type, or 1 where it is null.
struct AdamJob {
  void *params, *exp_avg, *exp_avg_sq, *grad;
  uint8_t* rows;
  const void* lr;
  int64_t parts, n, d;
  double step_size, beta1, beta2, eps, v_scale, norm_scale;
  bool checks;  // rows whose gradient is not finite are left as they are
  bool clears;  // gradients and flags of the rows are zeroed for the next step
};

}  // namespace splatseg

// One of `shares` shares of the rows, each in rising order. Returns the first row whose gradient was found not to be finite, or
// -1. `scratch`: 3 d numbers of the parameter's type, zeros.
SPLATSEG_KERNEL(int64_t, adam_float, (const AdamJob& job, void* scratch, int64_t share, int64_t shares))
SPLATSEG_KERNEL(int64_t, adam_double, (const AdamJob& job, void* scratch, int64_t share, int64_t shares))
