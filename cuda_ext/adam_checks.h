// The type of the Adam step and its input checks, shared by devices.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

#include "registration.h"

namespace splatseg {

// In the order of the schema; see splatseg/ops/reference/adam.py.
struct AdamTensors {
  at::Tensor params, exp_avg, exp_avg_sq, grad;
  std::optional<at::Tensor> rows, lr;
  at::Tensor rates;
  std::optional<at::Tensor> bad;
};

using AdamOp = void(at::Tensor params, at::Tensor exp_avg, at::Tensor exp_avg_sq, at::Tensor grad,
                    std::optional<at::Tensor> rows, const std::optional<at::Tensor>& lr, const at::Tensor& rates,
                    std::optional<at::Tensor> bad, double beta1, double beta2, double eps, double norm_weight, bool clear);

// Raises ValueError naming the argument unless params and averages are contiguous (n, d) matrices, grad (parts, n, d), of one
// type and place, rows (parts, n), lr (d,), rates (2,) here or on the host, and bad a number.
void check_adam(const AdamTensors& t);

}  // namespace splatseg
