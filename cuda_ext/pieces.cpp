// splatseg::connected_pieces: schema and the checks that every device shares. See splatseg/ops/pieces.py.
#include "pieces_checks.h"

#include <torch/library.h>

namespace splatseg {

void check_pieces(const at::Tensor& labels, const at::Tensor& neighbors, const at::Tensor& distances) {
  TORCH_CHECK_VALUE(labels.dim() == 1 && labels.size(0) < INT32_MAX && labels.scalar_type() == at::kLong &&
                        labels.is_contiguous(),
                    "labels: expected (n,) contiguous int64, n below 2^31, found ", labels.sizes(), " ", labels.scalar_type());
  TORCH_CHECK_VALUE(neighbors.dim() == 2 && neighbors.size(0) == labels.size(0) && neighbors.scalar_type() == at::kInt &&
                        neighbors.is_contiguous(),
                    "neighbors: expected (", labels.size(0), ", k) contiguous int32, found ", neighbors.sizes(), " ",
                    neighbors.scalar_type());
  TORCH_CHECK_VALUE(distances.sizes() == neighbors.sizes() && distances.scalar_type() == at::kFloat &&
                        distances.is_contiguous(),
                    "distances: expected ", neighbors.sizes(), " contiguous float32, found ", distances.sizes(), " ",
                    distances.scalar_type());
}

}  // namespace splatseg

TORCH_LIBRARY_FRAGMENT(splatseg, m) {
  m.def("connected_pieces(Tensor labels, Tensor neighbors, Tensor distances, float longest) -> Tensor");
}
