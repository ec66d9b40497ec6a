#pragma once
#include <stdint.h>

#include "cpu/dispatch.h"

namespace splatseg {

// rate folds the bias correction of the first moment, root that of the second: p -= lr[c] * rate * m / (sqrt(v) * root + eps)
struct AdamStep {
  double beta1, beta2, eps, rate, root;
};

}  // namespace splatseg

// Rows [begin, end) of (n, k) row-major arrays; visible may be null.
SPLATSEG_KERNEL(void, visible_adam_rows,
                (float* param, const float* grad, float* m, float* v, const float* lr, const bool* visible, int64_t begin,
                 int64_t end, int64_t k, splatseg::AdamStep step))
SPLATSEG_KERNEL(void, visible_adam_rows,
                (double* param, const double* grad, double* m, double* v, const double* lr, const bool* visible,
                 int64_t begin, int64_t end, int64_t k, splatseg::AdamStep step))
