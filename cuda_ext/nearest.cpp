// splatseg::nearest_points: schema and the checks that every device shares. See splatseg/ops/nearest.py.
#include "nearest_checks.h"

#include <torch/library.h>

namespace splatseg {
namespace {

void check_places(const at::Tensor& t, const char* name, at::ScalarType type) {
  TORCH_CHECK_VALUE(t.dim() == 2 && t.size(1) == 3 && t.size(0) < INT32_MAX && t.is_contiguous(), name,
                    ": expected (n, 3) contiguous, n below 2^31, found ", t.sizes());
  TORCH_CHECK_VALUE((type == at::kFloat || type == at::kDouble) && t.scalar_type() == type, name,
                    ": expected float32 or float64, as the points, found ", t.scalar_type());
}

}  // namespace

void check_nearest(const at::Tensor& points, const std::optional<at::Tensor>& places, int64_t count, bool others) {
  check_places(points, "points", points.scalar_type());
  if (places.has_value()) check_places(*places, "places", points.scalar_type());
  TORCH_CHECK_VALUE(!(others && places.has_value()), "others: expected no places, which have no others, found some");
  TORCH_CHECK_VALUE(count >= 1 && count <= points.size(0) - int64_t(others), "count: expected 1..",
                    points.size(0) - int64_t(others), ", found ", count);
}

}  // namespace splatseg

TORCH_LIBRARY_FRAGMENT(splatseg, m) {
  m.def("nearest_points(Tensor points, Tensor? places, int count, bool others) -> (Tensor ids, Tensor distances)");
}
