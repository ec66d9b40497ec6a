// The nearest points on the CPU: tensors in, tensors out; the work is in nearest.h.
#include "cpu/nearest.h"

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <cmath>

#include "nearest_checks.h"

namespace splatseg {
namespace {

// Points that are no numbers have no order: sorting would leave the buffers.
template <class T>
void check_finite(const at::Tensor& t, const char* name) {
  const T* value = t.const_data_ptr<T>();
  bool finite = true;
  for (int64_t i = 0; i < t.numel(); i++) finite &= std::isfinite(value[i]);
  TORCH_CHECK_VALUE(finite, name, ": expected finite coordinates, found others");
}

std::tuple<at::Tensor, at::Tensor> nearest(const at::Tensor& points, const std::optional<at::Tensor>& places, int64_t count,
                                           bool others) {
  check_nearest(points, places, count, others);
  const int64_t m = places.has_value() ? places->size(0) : points.size(0);
  at::Tensor ids = at::empty({m, count}, points.options().dtype(at::kInt));
  at::Tensor distances = at::empty({m, count}, points.options().dtype(at::kFloat));
  AT_DISPATCH_FLOATING_TYPES(points.scalar_type(), "nearest_points", [&] {
    check_finite<scalar_t>(points, "points");
    if (places.has_value()) check_finite<scalar_t>(*places, "places");
    const scalar_t* asked = places.has_value() ? places->const_data_ptr<scalar_t>() : nullptr;
    const NearestArgs<scalar_t> args{points.const_data_ptr<scalar_t>(), points.size(0), asked, m, count, others,
                                     at::get_num_threads()};
    nearest_points(args, ids.data_ptr<int32_t>(), distances.data_ptr<float>());
  });
  return {ids, distances};
}

}  // namespace
}  // namespace splatseg

TORCH_LIBRARY_IMPL(splatseg, CPU, m) {
  m.impl("nearest_points", splatseg::kernel<splatseg::NearestPointsOp>(splatseg::nearest));
}
