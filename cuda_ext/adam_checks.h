// Input checks of the sparse Adam step that every device shares.
#pragma once

#include <ATen/core/Tensor.h>

#include "registration.h"

namespace splatseg {

using SparseAdamOp = void(at::Tensor params, at::Tensor exp_avg, at::Tensor exp_avg_sq, at::Tensor grad, at::Tensor touched,
                          int64_t step, double lr, double beta1, double beta2, double eps, double norm_weight);
using SparseAdamAtOp = void(at::Tensor params, at::Tensor exp_avg, at::Tensor exp_avg_sq, at::Tensor grad,
                            at::Tensor touched, const at::Tensor& rates, at::Tensor bad, double beta1, double beta2,
                            double eps, double norm_weight);

// Raises ValueError unless params and averages are contiguous (n, d) matrices, grad (parts, n, d), of one type and place, and
// touched (parts, n).
void check_sparse_adam(const at::Tensor& params, const at::Tensor& exp_avg, const at::Tensor& exp_avg_sq,
                       const at::Tensor& grad, const at::Tensor& touched);

}  // namespace splatseg
