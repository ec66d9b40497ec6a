// Schema and checks of splatseg::rasterize. The last five outputs are the state that the backward reads: splat records, tile
// rectangles, tile list offsets, tile lists, and for each entry the 4x4 blocks of the tile in which it is drawn.
#include "rasterize_inputs.h"

#include <torch/library.h>

namespace splatseg {
namespace {

void check_rows(const at::Tensor& t, const char* name, at::IntArrayRef tail, const at::Tensor& means) {
  TORCH_CHECK_VALUE(t.dim() == int64_t(tail.size()) + 1 && t.size(0) == means.size(0) && t.sizes().slice(1) == tail, name,
                    ": expected shape (", means.size(0), ", ...", tail, "), found ", t.sizes());
  TORCH_CHECK_VALUE(t.scalar_type() == means.scalar_type() && t.device() == means.device(), name,
                    ": expected dtype and device of means, found ", t.scalar_type(), " on ", t.device());
}

}  // namespace

void check_rasterize(const RasterizeInputs& in) {
  const auto type = in.means.scalar_type();
  TORCH_CHECK_VALUE(type == at::kFloat || type == at::kDouble, "means: expected float32 or float64, found ", type);
  TORCH_CHECK_VALUE(in.means.dim() == 2, "means: expected shape (n, 3), found ", in.means.sizes());
  check_rows(in.means, "means", {3}, in.means);
  check_rows(in.quats, "quats", {4}, in.means);
  check_rows(in.scales, "scales", {3}, in.means);
  check_rows(in.opacities, "opacities", {}, in.means);
  TORCH_CHECK_VALUE(in.sh.dim() == 3, "sh: expected shape (n, k, 3), found ", in.sh.sizes());
  check_rows(in.sh, "sh", {in.sh.size(1), 3}, in.means);
  if (in.features.has_value()) {
    TORCH_CHECK_VALUE(in.features->dim() == 2, "features: expected shape (n, d), found ", in.features->sizes());
    check_rows(*in.features, "features", {in.features->size(1)}, in.means);
  }
  if (in.means2d.has_value()) check_rows(*in.means2d, "means2d", {2}, in.means);
  TORCH_CHECK_VALUE(in.means.size(0) < INT32_MAX, "means: expected fewer than 2^31 rows, found ", in.means.size(0));
  TORCH_CHECK_VALUE(in.K.sizes() == at::IntArrayRef({3, 3}), "K: expected shape (3, 3), found ", in.K.sizes());
  TORCH_CHECK_VALUE(in.cam_from_world.sizes() == at::IntArrayRef({4, 4}), "cam_from_world: expected shape (4, 4), found ",
                    in.cam_from_world.sizes());
  TORCH_CHECK_VALUE(in.background.sizes() == at::IntArrayRef({3}), "background: expected shape (3,), found ",
                    in.background.sizes());
  TORCH_CHECK_VALUE(in.width > 0 && in.height > 0 && in.width < 32768 && in.height < 32768,
                    "camera: expected an image of 1..32767 pixels a side, found ", in.width, "x", in.height);
  TORCH_CHECK_VALUE(in.sh_degree >= 0 && in.sh_degree <= 3 && (in.sh_degree + 1) * (in.sh_degree + 1) <= in.sh.size(1),
                    "sh_degree: expected 0..3 and no more than sh holds (", in.sh.size(1), " coefficients), found ",
                    in.sh_degree);
  TORCH_CHECK_VALUE(in.near_plane > 0, "near: expected a positive depth, found ", in.near_plane);
}

}  // namespace splatseg

TORCH_LIBRARY_FRAGMENT(splatseg, m) {
  m.def(
      "rasterize(Tensor means, Tensor quats, Tensor scales, Tensor opacities, Tensor sh, Tensor? features, "
      "Tensor? means2d, Tensor? absgrad, Tensor K, Tensor cam_from_world, Tensor background, int width, int height, "
      "int sh_degree, float eps2d, float near, float far) -> (Tensor color, Tensor alpha, Tensor depth, "
      "Tensor feature_map, Tensor radii, Tensor splats, Tensor rects, Tensor offsets, Tensor ids, Tensor blocks)");
  m.def(
      "rasterize_backward(Tensor? grad_color, Tensor? grad_alpha, Tensor? grad_depth, Tensor? grad_feature_map, "
      "Tensor means, Tensor quats, Tensor scales, Tensor opacities, Tensor sh, Tensor? features, Tensor? means2d, "
      "Tensor K, Tensor cam_from_world, Tensor background, int width, int height, int sh_degree, float eps2d, "
      "float near, float far, Tensor color, Tensor alpha, Tensor depth, Tensor feature_map, Tensor splats, "
      "Tensor rects, Tensor offsets, Tensor ids, Tensor blocks, bool geometry, bool absgrad) -> (Tensor means, Tensor quats, "
      "Tensor scales, Tensor opacities, Tensor sh, Tensor features, Tensor means2d, Tensor absgrad)");
}
