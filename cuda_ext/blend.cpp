#include "blend_checks.h"

#include <torch/library.h>

namespace splatseg {

void check_blend(const at::Tensor& offsets, const at::Tensor& ids, const at::Tensor& weights, const at::Tensor& matrix,
                 const std::optional<at::Tensor>& rows) {
  TORCH_CHECK_VALUE(offsets.dim() == 1 && offsets.numel() >= 1 && offsets.scalar_type() == at::kLong,
                    "offsets: expected shape (m + 1,) int64, found ", offsets.sizes(), " ", offsets.scalar_type());
  TORCH_CHECK_VALUE(ids.dim() == 1 && ids.scalar_type() == at::kInt, "ids: expected shape (e,) int32, found ", ids.sizes(),
                    " ", ids.scalar_type());
  TORCH_CHECK_VALUE(weights.sizes() == ids.sizes(), "weights: expected shape ", ids.sizes(), ", found ", weights.sizes());
  TORCH_CHECK_VALUE(matrix.dim() == 2, "matrix: expected 2 dimensions, found ", matrix.sizes());
  const auto type = matrix.scalar_type(), weight_type = weights.scalar_type();
  TORCH_CHECK_VALUE((type == at::kFloat && (weight_type == at::kFloat || weight_type == at::kHalf)) ||
                        (type == at::kDouble && weight_type == at::kDouble),
                    "weights: expected float16 or float32 beside float32, float64 beside float64, found ", weight_type,
                    " beside ", type);
  if (rows.has_value())
    TORCH_CHECK_VALUE(rows->dim() == 1 && rows->scalar_type() == at::kLong, "rows: expected shape (r,) int64, found ",
                      rows->sizes(), " ", rows->scalar_type());
}

void check_blend_sum(const at::Tensor& grad, const at::Tensor& sum, const at::Tensor& touched) {
  TORCH_CHECK_VALUE(sum.dim() == 3 && sum.size(0) >= 1 && sum.size(2) == grad.size(1) &&
                        sum.scalar_type() == grad.scalar_type() && sum.is_contiguous() && sum.device() == grad.device(),
                    "sum: expected contiguous (parts, n, d) matrices like grad, found ", sum.sizes(), " ",
                    sum.scalar_type());
  TORCH_CHECK_VALUE(touched.sizes() == sum.sizes().slice(0, 2) && touched.scalar_type() == at::kByte &&
                        touched.is_contiguous() && touched.device() == grad.device(),
                    "touched: expected contiguous (parts, n) uint8, found ", touched.sizes(), " ", touched.scalar_type());
}

int64_t blend_count(const at::Tensor& offsets, const std::optional<at::Tensor>& rows) {
  return rows.has_value() ? rows->numel() : offsets.numel() - 1;
}

}  // namespace splatseg

TORCH_LIBRARY_FRAGMENT(splatseg, m) {
  m.def("blend(Tensor offsets, Tensor ids, Tensor weights, Tensor features, Tensor? rows) -> Tensor");
  m.def("blend_transpose(Tensor offsets, Tensor ids, Tensor weights, Tensor grad, Tensor? rows, SymInt n) -> Tensor");
  m.def(
      "blend_transpose_(Tensor offsets, Tensor ids, Tensor weights, Tensor grad, Tensor? rows, Tensor(a!) sum, "
      "Tensor(b!) touched) -> ()");
}
