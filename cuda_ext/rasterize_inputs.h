// Inputs of splatseg::rasterize and the checks that keep kernels inside their buffers, shared by devices.
#pragma once

#include <ATen/ATen.h>

#include <optional>

namespace splatseg {

struct RasterizeInputs {
  at::Tensor means, quats, scales, opacities, sh;
  std::optional<at::Tensor> features, means2d;
  at::Tensor K, cam_from_world, background;
  int64_t width, height, sh_degree;
  double eps2d, near_plane, far_plane;
};

// Raises ValueError, naming the argument, unless shapes, dtypes and ranges are what the schema promises.
void check_rasterize(const RasterizeInputs& in);

}  // namespace splatseg
