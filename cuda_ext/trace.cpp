// Schema and checks of splatseg::trace.
#include "trace_inputs.h"

#include <torch/library.h>

namespace splatseg {
namespace {

void check_trace_rows(const at::Tensor& t, const char* name, at::IntArrayRef tail, const at::Tensor& means) {
  TORCH_CHECK_VALUE(t.dim() == int64_t(tail.size()) + 1 && t.size(0) == means.size(0) && t.sizes().slice(1) == tail, name,
                    ": expected shape (", means.size(0), ", ...", tail, "), found ", t.sizes());
  TORCH_CHECK_VALUE(t.scalar_type() == means.scalar_type() && t.device() == means.device(), name,
                    ": expected dtype and device of means, found ", t.scalar_type(), " on ", t.device());
}

void check_pixels(const TraceInputs& in) {
  TORCH_CHECK_VALUE(in.pixels.dim() == 2 && in.pixels.size(1) == 2 && in.pixels.scalar_type() == at::kInt,
                    "pixels: expected shape (m, 2) int32, found ", in.pixels.sizes(), " ", in.pixels.scalar_type());
  TORCH_CHECK_VALUE(in.pixels.size(0) < INT32_MAX, "pixels: expected fewer than 2^31, found ", in.pixels.size(0));
}

}  // namespace

void check_trace(const TraceInputs& in) {
  const auto type = in.means.scalar_type();
  TORCH_CHECK_VALUE(type == at::kFloat || type == at::kDouble, "means: expected float32 or float64, found ", type);
  TORCH_CHECK_VALUE(in.means.dim() == 2, "means: expected shape (n, 3), found ", in.means.sizes());
  TORCH_CHECK_VALUE(in.means.size(0) < INT32_MAX, "means: expected fewer than 2^31 rows, found ", in.means.size(0));
  check_trace_rows(in.means, "means", {3}, in.means);
  check_trace_rows(in.quats, "quats", {4}, in.means);
  check_trace_rows(in.scales, "scales", {3}, in.means);
  check_trace_rows(in.opacities, "opacities", {}, in.means);
  check_pixels(in);
  TORCH_CHECK_VALUE(in.K.sizes() == at::IntArrayRef({3, 3}), "K: expected shape (3, 3), found ", in.K.sizes());
  TORCH_CHECK_VALUE(in.cam_from_world.sizes() == at::IntArrayRef({4, 4}), "cam_from_world: expected shape (4, 4), found ",
                    in.cam_from_world.sizes());
  TORCH_CHECK_VALUE(in.width > 0 && in.height > 0 && in.width < 32768 && in.height < 32768,
                    "camera: expected an image of 1..32767 pixels a side, found ", in.width, "x", in.height);
  TORCH_CHECK_VALUE(in.near_plane > 0, "near: expected a positive depth, found ", in.near_plane);
}

}  // namespace splatseg

TORCH_LIBRARY_FRAGMENT(splatseg, m) {
  m.def(
      "trace(Tensor means, Tensor quats, Tensor scales, Tensor opacities, Tensor K, Tensor cam_from_world, Tensor pixels, "
      "int width, int height, float eps2d, float near, float far, float min_weight) -> (Tensor pixels, Tensor order, "
      "Tensor offsets, Tensor ids, Tensor weights)");
}
