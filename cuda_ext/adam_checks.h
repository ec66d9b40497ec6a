// Input checks of the sparse Adam step that every device shares.
#pragma once

#include <ATen/core/Tensor.h>

namespace splatseg {

// Raises ValueError unless params and averages are contiguous (n, d) matrices, grad (parts, n, d), of one type and place, and
// touched (parts, n).
void check_sparse_adam(const at::Tensor& params, const at::Tensor& exp_avg, const at::Tensor& exp_avg_sq,
                       const at::Tensor& grad, const at::Tensor& touched);

}  // namespace splatseg
