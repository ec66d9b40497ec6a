// Inputs of splatseg::reachability_edges and the checks that keep kernels inside their buffers. See
// splatseg/ops/spanning_tree.py.
#pragma once

#include <ATen/core/Tensor.h>

#include <tuple>

#include "registration.h"

namespace splatseg {

using ReachabilityEdgesOp = std::tuple<at::Tensor, at::Tensor, at::Tensor>(const at::Tensor& points, const at::Tensor& copies,
                                                                           int64_t min_samples);

// Raises ValueError, naming the argument.
void check_reachability(const at::Tensor& points, const at::Tensor& copies, int64_t min_samples);

}  // namespace splatseg
