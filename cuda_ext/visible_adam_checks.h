#pragma once
#include <ATen/ATen.h>

#include <optional>

#include "registration.h"

namespace splatseg {

using VisibleAdamOp = void(at::Tensor& param, const at::Tensor& grad, at::Tensor& exp_avg, at::Tensor& exp_avg_sq,
                           const at::Tensor& lr, const std::optional<at::Tensor>& visible, double beta1, double beta2,
                           double eps, int64_t step);

// Throws c10::Error naming the argument unless shapes, dtypes and layout fit; see ops/visible_adam.py for their meaning.
void check_visible_adam(const at::Tensor& param, const at::Tensor& grad, const at::Tensor& exp_avg,
                        const at::Tensor& exp_avg_sq, const at::Tensor& lr, const std::optional<at::Tensor>& visible,
                        int64_t step);

}  // namespace splatseg
