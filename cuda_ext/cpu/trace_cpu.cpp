// splatseg::trace on the CPU: tensors in, tensors out; the work is in project.h, binning.h and trace.h.
#include "cpu/trace.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <memory>
#include <tuple>
#include <vector>

#include "trace_inputs.h"

namespace splatseg {
namespace {

using at::Tensor;
using Result = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>;

template <class T>
ProjectArgs<T> make_args(const TraceInputs& in) {
  ProjectArgs<T> args{};
  const double* k = in.K.const_data_ptr<double>();
  const double* m = in.cam_from_world.const_data_ptr<double>();
  for (int i = 0; i < 12; i++) args.view.cam_from_world[i] = T(m[i]);
  args.view.fx = T(k[0]);
  args.view.fy = T(k[4]);
  args.view.cx = T(k[2]);
  args.view.cy = T(k[5]);
  args.view.eps2d = T(in.eps2d);
  args.view.near_plane = T(in.near_plane);
  args.view.far_plane = T(in.far_plane);
  args.view.width = int(in.width);
  args.view.height = int(in.height);
  args.in.n = in.means.size(0);
  args.in.means = in.means.const_data_ptr<T>();
  args.in.quats = in.quats.const_data_ptr<T>();
  args.in.scales = in.scales.const_data_ptr<T>();
  args.in.opacities = in.opacities.const_data_ptr<T>();
  args.threads = at::get_num_threads();
  return args;
}

void check_splats_finite(unsigned bad) {
  const std::pair<unsigned, const char*> names[] = {
      {kMeans, "means"}, {kQuats, "quats"}, {kScales, "scales"}, {kOpacities, "opacities"}};
  for (const auto& [bit, name] : names)
    TORCH_CHECK_VALUE((bad & bit) == 0, name, ": expected finite values, found a NaN or an infinity");
}

void check_inside(const TraceInputs& in) {
  const int32_t* pixel = in.pixels.const_data_ptr<int32_t>();
  for (int64_t i = 0; i < in.pixels.size(0); i++)
    TORCH_CHECK_VALUE(pixel[2 * i] >= 0 && pixel[2 * i] < in.width && pixel[2 * i + 1] >= 0 && pixel[2 * i + 1] < in.height,
                      "pixels: expected columns in 0..", in.width - 1, " and rows in 0..", in.height - 1, ", found (",
                      pixel[2 * i], ", ", pixel[2 * i + 1], ") at index ", i);
}

template <class T>
Result run(const TraceInputs& in) {
  const int64_t n = in.means.size(0), count = in.pixels.size(0);
  ProjectArgs<T> args = make_args<T>(in);
  const std::unique_ptr<Splat<T>[]> splats(new Splat<T>[size_t(n)]);
  const std::unique_ptr<TileRect[]> rects(new TileRect[size_t(n)]);
  const Tensor radii = at::empty({n, 2}, in.pixels.options());
  args.splats = splats.get();
  args.rects = rects.get();
  args.radii = radii.data_ptr<int32_t>();
  check_splats_finite(project(args));
  const TileGrid grid(int(in.width), int(in.height));
  const TileBinner<T> binner(n, splats.get(), rects.get(), grid, args.threads);
  TORCH_CHECK(binner.pairs() < INT32_MAX, "trace: expected fewer than 2^31 (Gaussian, tile) pairs, found ", binner.pairs());
  const Tensor tile_offsets = at::empty({grid.tiles() + 1}, in.pixels.options());
  const Tensor tile_ids = at::empty({binner.pairs()}, in.pixels.options());
  binner.fill(tile_offsets.data_ptr<int32_t>(), tile_ids.data_ptr<int32_t>());

  PixelTracer<T> tracer(in.pixels.const_data_ptr<int32_t>(), count, grid);
  const TileLists<T> lists{splats.get(), tile_offsets.const_data_ptr<int32_t>(), tile_ids.const_data_ptr<int32_t>()};
  tracer.run(lists, T(in.min_weight), args.threads);
  Tensor pixels = at::empty({count, 2}, in.pixels.options());
  Tensor order = at::empty({count}, in.pixels.options().dtype(at::kLong));
  Tensor offsets = at::empty({count + 1}, order.options());
  Tensor ids = at::empty({tracer.entries()}, in.pixels.options());
  Tensor weights = at::empty({tracer.entries()}, in.means.options());
  tracer.write(pixels.data_ptr<int32_t>(), order.data_ptr<int64_t>(), offsets.data_ptr<int64_t>(), ids.data_ptr<int32_t>(),
               weights.data_ptr<T>());
  return {pixels, order, offsets, ids, weights};
}

Result trace(const Tensor& means, const Tensor& quats, const Tensor& scales, const Tensor& opacities, const Tensor& K,
             const Tensor& cam_from_world, const Tensor& pixels, int64_t width, int64_t height, double eps2d, double near,
             double far, double min_weight) {
  TraceInputs in{means, quats, scales, opacities, K, cam_from_world, pixels, width, height, eps2d, near, far, min_weight};
  check_trace(in);
  for (Tensor* t : {&in.means, &in.quats, &in.scales, &in.opacities, &in.pixels}) *t = t->contiguous();
  for (Tensor* t : {&in.K, &in.cam_from_world}) *t = t->to(at::kDouble).contiguous();
  check_inside(in);
  return in.means.scalar_type() == at::kFloat ? run<float>(in) : run<double>(in);
}

}  // namespace
}  // namespace splatseg

TORCH_LIBRARY_IMPL(splatseg, CPU, m) { m.impl("trace", splatseg::kernel<splatseg::TraceOp>(splatseg::trace)); }
