// splatseg::rasterize on the CPU: tensors in, tensors out; the work is in project.h, binning.h and rasterize.h.
#include "cpu/rasterize.h"

#include <ATen/Parallel.h>
#include <torch/library.h>

#include <tuple>

#include "cpu/binning.h"
#include "rasterize_inputs.h"

namespace splatseg {
namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

void make_contiguous(RasterizeInputs& in) {
  for (Tensor* t : {&in.means, &in.quats, &in.scales, &in.opacities, &in.sh}) *t = t->contiguous();
  if (in.features.has_value()) in.features = in.features->contiguous();
  if (in.means2d.has_value()) in.means2d = in.means2d->contiguous();
  for (Tensor* t : {&in.K, &in.cam_from_world, &in.background}) *t = t->to(at::kCPU, at::kDouble).contiguous();
}

template <class T>
const T* pointer(const OptionalTensor& t) {
  return t.has_value() && t->defined() && t->numel() > 0 ? t->const_data_ptr<T>() : nullptr;
}

template <class T>
PinholeView<T> make_view(const RasterizeInputs& in) {
  PinholeView<T> view;
  const double* k = in.K.const_data_ptr<double>();
  const double* m = in.cam_from_world.const_data_ptr<double>();
  for (int i = 0; i < 12; i++) view.cam_from_world[i] = T(m[i]);
  view.fx = T(k[0]);
  view.fy = T(k[4]);
  view.cx = T(k[2]);
  view.cy = T(k[5]);
  // The transform is rigid: its inverse's translation is -R^T t.
  for (int i = 0; i < 3; i++) view.position[i] = T(-(m[i] * m[3] + m[4 + i] * m[7] + m[8 + i] * m[11]));
  view.eps2d = T(in.eps2d);
  view.near_plane = T(in.near_plane);
  view.far_plane = T(in.far_plane);
  view.width = int(in.width);
  view.height = int(in.height);
  return view;
}

template <class T>
GaussianArrays<T> make_arrays(const RasterizeInputs& in) {
  GaussianArrays<T> g;
  g.n = in.means.size(0);
  g.means = in.means.const_data_ptr<T>();
  g.quats = in.quats.const_data_ptr<T>();
  g.scales = in.scales.const_data_ptr<T>();
  g.opacities = in.opacities.const_data_ptr<T>();
  g.sh = in.sh.const_data_ptr<T>();
  g.means2d_offset = pointer<T>(in.means2d);
  g.sh_stored = int(in.sh.size(1));
  g.sh_degree = int(in.sh_degree);
  return g;
}

// What the forward makes and the backward reads.
struct Drawn {
  Tensor color, alpha, depth, feature_map, splats, rects, offsets, ids, blocks;
};

template <class T>
RasterArgs<T> make_raster(const RasterizeInputs& in, const Drawn& drawn) {
  RasterArgs<T> r;
  r.width = int(in.width);
  r.height = int(in.height);
  r.splats = reinterpret_cast<const Splat<T>*>(drawn.splats.const_data_ptr<uint8_t>());
  r.offsets = drawn.offsets.const_data_ptr<int32_t>();
  r.ids = drawn.ids.const_data_ptr<int32_t>();
  r.features = pointer<T>(in.features);
  r.channels = r.features != nullptr ? int(in.features->size(1)) : 0;
  for (int c = 0; c < 3; c++) r.background[c] = T(in.background.const_data_ptr<double>()[c]);
  r.color = drawn.color.data_ptr<T>();
  r.alpha = drawn.alpha.data_ptr<T>();
  r.depth = drawn.depth.data_ptr<T>();
  r.feature_map = drawn.feature_map.data_ptr<T>();
  r.blocks = reinterpret_cast<uint16_t*>(drawn.blocks.data_ptr<int16_t>());
  r.threads = at::get_num_threads();
  return r;
}

void check_finite(unsigned bad) {
  const std::pair<unsigned, const char*> names[] = {{kMeans, "means"},         {kQuats, "quats"}, {kScales, "scales"},
                                                    {kOpacities, "opacities"}, {kSh, "sh"},       {kOffset, "means2d"}};
  for (const auto& [bit, name] : names)
    TORCH_CHECK_VALUE((bad & bit) == 0, name, ": expected finite values, found a NaN or an infinity");
}

template <class T>
Tensor project_all(const RasterizeInputs& in, Drawn& drawn) {
  const int64_t n = in.means.size(0);
  const int threads = at::get_num_threads();
  Tensor radii = at::empty({n, 2}, in.means.options().dtype(at::kInt));
  drawn.splats = at::empty({n, int64_t(sizeof(Splat<T>))}, in.means.options().dtype(at::kByte));
  drawn.rects = at::empty({n, 4}, in.means.options().dtype(at::kShort));
  auto* splats = reinterpret_cast<Splat<T>*>(drawn.splats.data_ptr<uint8_t>());
  auto* rects = reinterpret_cast<TileRect*>(drawn.rects.data_ptr<int16_t>());
  check_finite(project(ProjectArgs<T>{make_view<T>(in), make_arrays<T>(in), splats, rects, radii.data_ptr<int32_t>(), threads}));
  const TileGrid grid(int(in.width), int(in.height));
  const TileBinner<T> binner(n, splats, rects, grid, threads);
  TORCH_CHECK(binner.pairs() < INT32_MAX, "rasterize: expected fewer than 2^31 (Gaussian, tile) pairs, found ", binner.pairs());
  drawn.offsets = at::empty({grid.tiles() + 1}, radii.options());
  drawn.ids = at::empty({binner.pairs()}, radii.options());
  drawn.blocks = at::empty({binner.pairs()}, drawn.rects.options());
  binner.fill(drawn.offsets.data_ptr<int32_t>(), drawn.ids.data_ptr<int32_t>());
  return radii;
}

using ForwardResult = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

ForwardResult rasterize_cpu(const Tensor& means, const Tensor& quats, const Tensor& scales, const Tensor& opacities,
                            const Tensor& sh, const OptionalTensor& features, const OptionalTensor& means2d,
                            const OptionalTensor&, const Tensor& K, const Tensor& cam_from_world, const Tensor& background,
                            int64_t width, int64_t height, int64_t sh_degree, double eps2d, double near, double far) {
  RasterizeInputs in{means, quats, scales, opacities, sh,        features, means2d, K,
                     cam_from_world, background, width, height, sh_degree, eps2d,    near,    far};
  check_rasterize(in);
  make_contiguous(in);
  Drawn drawn;
  Tensor radii;
  AT_DISPATCH_FLOATING_TYPES(in.means.scalar_type(), "rasterize", [&] {
    radii = project_all<scalar_t>(in, drawn);
    const int64_t channels = in.features.has_value() ? in.features->size(1) : 0;
    drawn.color = at::empty({height, width, 3}, in.means.options());
    drawn.alpha = at::empty({height, width}, in.means.options());
    drawn.depth = at::empty({height, width}, in.means.options());
    // Without Gaussians there is no feature pointer to walk by, but the map is still an image of zeros.
    drawn.feature_map = in.means.size(0) > 0 ? at::empty({height, width, channels}, in.means.options())
                                             : at::zeros({height, width, channels}, in.means.options());
    const bool bad = rasterize(make_raster<scalar_t>(in, drawn));
    TORCH_CHECK_VALUE(!bad, channels > 0 ? "features" : "background",
                      ": expected finite values, found a NaN or an infinity");
  });
  return {drawn.color, drawn.alpha, drawn.depth, drawn.feature_map, radii, drawn.splats, drawn.rects, drawn.offsets, drawn.ids,
          drawn.blocks};
}

using BackwardResult = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

struct OutputGrads {
  OptionalTensor color, alpha, depth, feature_map;
};

void make_contiguous(OutputGrads& grads) {
  for (OptionalTensor* t : {&grads.color, &grads.alpha, &grads.depth, &grads.feature_map})
    if (t->has_value() && (*t)->defined()) *t = (*t)->contiguous();
}

template <class T>
BackwardResult backward(const RasterizeInputs& in, const Drawn& drawn, const OutputGrads& grads, bool geometry, bool absgrad) {
  const int64_t n = in.means.size(0), pairs = drawn.ids.size(0);
  const RasterArgs<T> forward = make_raster<T>(in, drawn);
  const bool through_features = forward.features != nullptr && pointer<T>(grads.feature_map) != nullptr;
  const auto options = in.means.options();
  const Tensor none = at::empty({0}, options);
  const Tensor pair_grads = geometry ? at::empty({pairs, kPairGrads}, options) : none;
  const Tensor pair_features = through_features ? at::empty({pairs, padded_channels(forward.channels)}, options) : none;
  rasterize_backward(RasterBackwardArgs<T>{
      forward, pointer<T>(grads.color), pointer<T>(grads.alpha), pointer<T>(grads.depth), pointer<T>(grads.feature_map),
      geometry ? pair_grads.data_ptr<T>() : nullptr, through_features ? pair_features.data_ptr<T>() : nullptr, absgrad});
  const auto* rects = reinterpret_cast<const TileRect*>(drawn.rects.const_data_ptr<int16_t>());
  Tensor features = none;
  if (in.features.has_value()) {
    features = through_features ? at::empty_like(*in.features) : at::zeros_like(*in.features);
    if (through_features)
      reduce_features(FeatureReduceArgs<T>{n, forward.channels, forward.splats, rects, pair_features.const_data_ptr<T>(),
                                           features.data_ptr<T>(), forward.threads});
  }
  if (!geometry) return {none, none.clone(), none.clone(), none.clone(), none.clone(), features, none.clone(), none.clone()};
  Tensor means = at::empty_like(in.means), quats = at::empty_like(in.quats), scales = at::empty_like(in.scales);
  Tensor opacities = at::empty_like(in.opacities), sh = at::empty_like(in.sh);
  Tensor means2d = in.means2d.has_value() ? at::empty({n, 2}, options) : at::empty({0}, options);
  Tensor abs2d = absgrad ? at::empty({n, 2}, options) : at::empty({0}, options);
  project_backward(ProjectBackwardArgs<T>{
      make_view<T>(in), make_arrays<T>(in), forward.splats, rects, pair_grads.const_data_ptr<T>(), means.data_ptr<T>(),
      quats.data_ptr<T>(), scales.data_ptr<T>(), opacities.data_ptr<T>(), sh.data_ptr<T>(),
      means2d.numel() > 0 ? means2d.data_ptr<T>() : nullptr, absgrad ? abs2d.data_ptr<T>() : nullptr, forward.threads});
  return {means, quats, scales, opacities, sh, features, means2d, abs2d};
}

BackwardResult rasterize_backward_cpu(
    const OptionalTensor& grad_color, const OptionalTensor& grad_alpha, const OptionalTensor& grad_depth,
    const OptionalTensor& grad_feature_map, const Tensor& means, const Tensor& quats, const Tensor& scales,
    const Tensor& opacities, const Tensor& sh, const OptionalTensor& features, const OptionalTensor& means2d,
    const Tensor& K, const Tensor& cam_from_world, const Tensor& background, int64_t width, int64_t height,
    int64_t sh_degree, double eps2d, double near, double far, const Tensor& color, const Tensor& alpha, const Tensor& depth,
    const Tensor& feature_map, const Tensor& splats, const Tensor& rects, const Tensor& offsets, const Tensor& ids,
    const Tensor& blocks, bool geometry, bool absgrad) {
  RasterizeInputs in{means, quats, scales, opacities, sh,        features, means2d, K,
                     cam_from_world, background, width, height, sh_degree, eps2d,    near,    far};
  check_rasterize(in);
  make_contiguous(in);
  OutputGrads grads{grad_color, grad_alpha, grad_depth, grad_feature_map};
  make_contiguous(grads);
  const Drawn drawn{color, alpha, depth, feature_map, splats, rects, offsets, ids, blocks};
  BackwardResult result;
  AT_DISPATCH_FLOATING_TYPES(in.means.scalar_type(), "rasterize_backward",
                             [&] { result = backward<scalar_t>(in, drawn, grads, geometry, absgrad); });
  return result;
}

}  // namespace
}  // namespace splatseg

TORCH_LIBRARY_IMPL(splatseg, CPU, m) {
  m.impl("rasterize", splatseg::kernel<splatseg::RasterizeOp>(splatseg::rasterize_cpu));
  m.impl("rasterize_backward", splatseg::kernel<splatseg::RasterizeBackwardOp>(splatseg::rasterize_backward_cpu));
}
