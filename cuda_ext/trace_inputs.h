// Inputs of splatseg::trace and the checks that keep kernels inside their buffers, shared by devices.
#pragma once

#include <ATen/core/Tensor.h>

#include <tuple>

#include "registration.h"

namespace splatseg {

using TraceOp = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor>(
    const at::Tensor& means, const at::Tensor& quats, const at::Tensor& scales, const at::Tensor& opacities,
    const at::Tensor& K, const at::Tensor& cam_from_world, const at::Tensor& pixels, int64_t width, int64_t height,
    double eps2d, double near, double far, double min_weight);

struct TraceInputs {
  at::Tensor means, quats, scales, opacities, K, cam_from_world, pixels;
  int64_t width, height;
  double eps2d, near_plane, far_plane, min_weight;
};

// Raises ValueError, naming the argument, unless shapes, dtypes and ranges are what the schema promises.
void check_trace(const TraceInputs& in);

}  // namespace splatseg
