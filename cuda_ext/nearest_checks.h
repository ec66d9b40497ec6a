// Inputs of splatseg::nearest_points and the checks that keep kernels inside their buffers. See splatseg/ops/nearest.py.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <tuple>

#include "registration.h"

namespace splatseg {

using NearestPointsOp = std::tuple<at::Tensor, at::Tensor>(const at::Tensor& points, const std::optional<at::Tensor>& places,
                                                           int64_t count, bool others);

// Raises ValueError, naming the argument.
void check_nearest(const at::Tensor& points, const std::optional<at::Tensor>& places, int64_t count, bool others);

}  // namespace splatseg
