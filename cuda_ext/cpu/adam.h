// Adam over the touched rows of a (n, d) parameter, with the gradient of the feature-norm term. Free of ATen.
#pragma once

#include <cstdint>

#include "cpu/dispatch.h"

namespace splatseg {

// params, exp_avg, exp_avg_sq: (n, d), grad: (parts, n, d), all float or all double. A row with touched (parts, n) != 0 in a
// part is updated by
//   g = sum over parts of grad + norm_scale * (|f| - 1) f / |f|      (no norm gradient where |f| = 0)
//   m += (1 - beta1)(g - m), v += (1 - beta2)(g g - v), f -= step_size * m / (sqrt(v) * v_scale + eps)
// and its gradient and flag are zeroed for the next step.
struct SparseAdamJob {
  void *params, *exp_avg, *exp_avg_sq, *grad;
  uint8_t* touched;
  int64_t parts, n, d;
  double step_size, beta1, beta2, eps, v_scale, norm_scale;
};

}  // namespace splatseg

// Rows of blocks share, share + shares, ... of kShareBlock (cpu/blend.h). Returns the first of them whose gradient is not finite
// (such a row is left as it was), or -1. `scratch`: 2 d zeros of the parameter's type.
SPLATSEG_KERNEL(int64_t, sparse_adam_float, (const SparseAdamJob& job, void* scratch, int64_t share, int64_t shares))
SPLATSEG_KERNEL(int64_t, sparse_adam_double, (const SparseAdamJob& job, void* scratch, int64_t share, int64_t shares))
