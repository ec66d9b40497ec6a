// splatseg::reachability_edges: schema and the checks that every device shares. See splatseg/ops/spanning_tree.py.
#include "spanning_tree_checks.h"

#include <torch/library.h>

namespace splatseg {

void check_reachability(const at::Tensor& points, const at::Tensor& copies, int64_t min_samples) {
  TORCH_CHECK_VALUE(points.dim() == 2 && points.size(0) >= 1 && points.size(0) < INT32_MAX &&
                        points.scalar_type() == at::kDouble && points.is_contiguous(),
                    "points: expected (m, d) contiguous float64, 1 <= m < 2^31, found ", points.sizes(), " ",
                    points.scalar_type());
  TORCH_CHECK_VALUE(copies.dim() == 1 && copies.size(0) == points.size(0) && copies.scalar_type() == at::kLong &&
                        copies.is_contiguous(),
                    "copies: expected (", points.size(0), ",) contiguous int64, found ", copies.sizes(), " ",
                    copies.scalar_type());
  TORCH_CHECK_VALUE(min_samples >= 1, "min_samples: expected at least 1, found ", min_samples);
}

}  // namespace splatseg

TORCH_LIBRARY_FRAGMENT(splatseg, m) {
  m.def("reachability_edges(Tensor points, Tensor copies, int min_samples) -> (Tensor core, Tensor edges, Tensor lengths)");
}
