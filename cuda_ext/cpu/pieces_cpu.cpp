// Connected pieces on the CPU: tensors in, tensors out; the work is in pieces.h.
#include "cpu/pieces.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include "pieces_checks.h"

namespace splatseg {
namespace {

at::Tensor pieces(const at::Tensor& labels, const at::Tensor& neighbors, const at::Tensor& distances, double longest) {
  check_pieces(labels, neighbors, distances);
  const int64_t n = labels.size(0);
  const int32_t* neighbor = neighbors.const_data_ptr<int32_t>();
  bool inside = true;
  for (int64_t i = 0; i < neighbors.numel(); i++) inside &= uint32_t(neighbor[i]) < uint64_t(n);
  TORCH_CHECK_VALUE(inside, "neighbors: expected 0..", n - 1, ", found others");
  at::Tensor out = at::empty({n}, labels.options());
  const NeighborGraph graph{labels.const_data_ptr<int64_t>(), neighbor, distances.const_data_ptr<float>(), n,
                            neighbors.size(1)};
  connected_pieces(graph, float(longest), out.data_ptr<int64_t>(), at::get_num_threads());
  return out;
}

}  // namespace
}  // namespace splatseg

TORCH_LIBRARY_IMPL(splatseg, CPU, m) {
  m.impl("connected_pieces", splatseg::kernel<splatseg::ConnectedPiecesOp>(splatseg::pieces));
}
