#pragma once
#include <ATen/ATen.h>

#include <optional>

namespace splatseg {

// Throws c10::Error naming the argument unless shapes, dtypes and layout fit; see ops/visible_adam.py for their meaning.
void check_visible_adam(const at::Tensor& param, const at::Tensor& grad, const at::Tensor& exp_avg,
                        const at::Tensor& exp_avg_sq, const at::Tensor& lr, const std::optional<at::Tensor>& visible,
                        int64_t step);

}  // namespace splatseg
