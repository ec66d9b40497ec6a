// Inputs of splatseg::trace and the checks that keep kernels inside their buffers, shared by devices.
#pragma once

#include <ATen/core/Tensor.h>

namespace splatseg {

struct TraceInputs {
  at::Tensor means, quats, scales, opacities, K, cam_from_world, pixels;
  int64_t width, height;
  double eps2d, near_plane, far_plane, min_weight;
};

// Raises ValueError, naming the argument, unless shapes, dtypes and ranges are what the schema promises.
void check_trace(const TraceInputs& in);

}  // namespace splatseg
