// One pass over the rows of a parameter: Adam with its own learning rate a column, skipping rows that were not drawn.
// Mirrors splatseg/ops/reference/visible_adam.py line by line.
#include "cpu/visible_adam.h"

#include <math.h>

namespace splatseg::SPLATSEG_ISA {
namespace {

template <class T>
inline void rows(T* __restrict param, const T* __restrict grad, T* __restrict m, T* __restrict v, const T* __restrict lr,
                 const bool* visible, int64_t begin, int64_t end, int64_t k, AdamStep step) {
  const T beta1 = (T)step.beta1, beta2 = (T)step.beta2, eps = (T)step.eps, rate = (T)step.rate, root = (T)step.root;
  for (int64_t row = begin; row < end; row++) {
    if (visible && !visible[row]) continue;
    const int64_t base = row * k;
#pragma GCC ivdep
    for (int64_t c = 0; c < k; c++) {
      const T g = grad[base + c];
      const T mean = beta1 * m[base + c] + (1 - beta1) * g;
      const T square = beta2 * v[base + c] + (1 - beta2) * g * g;
      m[base + c] = mean;
      v[base + c] = square;
      param[base + c] -= lr[c] * rate * mean / (sqrt(square) * root + eps);
    }
  }
}

}  // namespace

void visible_adam_rows(float* param, const float* grad, float* m, float* v, const float* lr, const bool* visible,
                       int64_t begin, int64_t end, int64_t k, AdamStep step) {
  rows(param, grad, m, v, lr, visible, begin, end, k, step);
}
void visible_adam_rows(double* param, const double* grad, double* m, double* v, const double* lr, const bool* visible,
                       int64_t begin, int64_t end, int64_t k, AdamStep step) {
  rows(param, grad, m, v, lr, visible, begin, end, k, step);
}

}  // namespace splatseg::SPLATSEG_ISA
