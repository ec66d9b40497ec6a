// Inputs of splatseg::rasterize and the checks that keep kernels inside their buffers, shared by devices.
#pragma once

#include <ATen/ATen.h>

#include <optional>
#include <tuple>

#include "registration.h"

namespace splatseg {

using RasterizeOp = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor,
                               at::Tensor, at::Tensor, at::Tensor>(
    const at::Tensor& means, const at::Tensor& quats, const at::Tensor& scales, const at::Tensor& opacities,
    const at::Tensor& sh, const std::optional<at::Tensor>& features, const std::optional<at::Tensor>& means2d,
    const std::optional<at::Tensor>& absgrad, const at::Tensor& K, const at::Tensor& cam_from_world,
    const at::Tensor& background, int64_t width, int64_t height, int64_t sh_degree, double eps2d, double near, double far);
using RasterizeBackwardOp = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor,
                                       at::Tensor>(
    const std::optional<at::Tensor>& grad_color, const std::optional<at::Tensor>& grad_alpha,
    const std::optional<at::Tensor>& grad_depth, const std::optional<at::Tensor>& grad_feature_map, const at::Tensor& means,
    const at::Tensor& quats, const at::Tensor& scales, const at::Tensor& opacities, const at::Tensor& sh,
    const std::optional<at::Tensor>& features, const std::optional<at::Tensor>& means2d, const at::Tensor& K,
    const at::Tensor& cam_from_world, const at::Tensor& background, int64_t width, int64_t height, int64_t sh_degree,
    double eps2d, double near, double far, const at::Tensor& color, const at::Tensor& alpha, const at::Tensor& depth,
    const at::Tensor& feature_map, const at::Tensor& splats, const at::Tensor& rects, const at::Tensor& offsets,
    const at::Tensor& ids, const at::Tensor& blocks, bool geometry, bool absgrad);

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
