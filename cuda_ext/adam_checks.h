// Input checks of the sparse Adam step that every device shares.
#pragma once

#include <ATen/core/Tensor.h>

namespace splatseg {

// Raises ValueError unless params, averages and gradient are contiguous (n, d) matrices of one type and place, touched (n,).
void check_sparse_adam(const at::Tensor& params, const at::Tensor& exp_avg, const at::Tensor& exp_avg_sq,
                       const at::Tensor& grad, const at::Tensor& touched);

}  // namespace splatseg
