// The tree of mutual reachability on the CPU: tensors in, tensors out; the work is in spanning_tree.h.
#include "cpu/spanning_tree.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <cmath>

#include "spanning_tree_checks.h"

namespace splatseg {
namespace {

constexpr double kLargest = 1e150;  // of a coordinate: its square is a number

std::tuple<at::Tensor, at::Tensor, at::Tensor> reachability(const at::Tensor& points, const at::Tensor& copies,
                                                            int64_t min_samples) {
  check_reachability(points, copies, min_samples);
  const double* value = points.const_data_ptr<double>();
  bool small = true;
  for (int64_t i = 0; i < points.numel(); i++) small &= std::abs(value[i]) <= kLargest;
  TORCH_CHECK_VALUE(small, "points: expected coordinates within 1e150, found others");
  const int64_t m = points.size(0), *copy = copies.const_data_ptr<int64_t>();
  int64_t all = 0;
  for (int64_t i = 0; i < m; i++) {
    TORCH_CHECK_VALUE(copy[i] >= 1 && copy[i] < INT32_MAX, "copies: expected 1..2^31 - 2, found ", copy[i]);
    all += copy[i];
  }
  TORCH_CHECK_VALUE(min_samples < all, "min_samples: expected 1..", all - 1, ", found ", min_samples);
  at::Tensor core = at::empty({m}, points.options()), lengths = at::empty({m - 1}, points.options());
  at::Tensor edges = at::empty({m - 1, 2}, copies.options());
  const ReachabilityArgs args{value, copy, m, points.size(1), min_samples, at::get_num_threads()};
  reachability_tree(args, core.data_ptr<double>(), edges.data_ptr<int64_t>(), lengths.data_ptr<double>());
  return {core, edges, lengths};
}

}  // namespace
}  // namespace splatseg

TORCH_LIBRARY_IMPL(splatseg, CPU, m) {
  m.impl("reachability_edges", splatseg::kernel<splatseg::ReachabilityEdgesOp>(splatseg::reachability));
}
