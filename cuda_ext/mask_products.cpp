// Schemas and checks of the products of masks: which Gaussians masks of many views share. See splatseg/ops/mask_rows.py.
#include "mask_products_checks.h"

#include <torch/library.h>

namespace splatseg {

void check_vector(const at::Tensor& t, const char* name, at::ScalarType type, int64_t size) {
  TORCH_CHECK_VALUE(t.dim() == 1 && t.size(0) == size && t.scalar_type() == type && t.is_contiguous(), name, ": expected (",
                    size, ",) contiguous ", type, ", found ", t.sizes(), " ", t.scalar_type());
}

int64_t check_rows(const at::Tensor& offsets, const at::Tensor& columns, int64_t width, const char* name) {
  TORCH_CHECK_VALUE(offsets.dim() == 1 && offsets.size(0) >= 1, name, ": expected offsets (n + 1,), found ", offsets.sizes());
  TORCH_CHECK_VALUE(width >= 0 && width < INT32_MAX, name, ": expected a width below 2^31, found ", width);
  check_vector(offsets, name, at::kLong, offsets.size(0));
  check_vector(columns, name, at::kInt, columns.dim() == 1 ? columns.size(0) : 0);
  const int64_t n = offsets.size(0) - 1, *bounds = offsets.const_data_ptr<int64_t>();
  bool ascending = bounds[0] == 0 && bounds[n] == columns.size(0);
  for (int64_t i = 0; i < n; i++) ascending &= bounds[i] <= bounds[i + 1];
  TORCH_CHECK_VALUE(ascending, name, ": expected offsets that ascend from 0 to ", columns.size(0), ", found others");
  const int32_t* column = columns.const_data_ptr<int32_t>();
  bool inside = true;
  for (int64_t i = 0; i < columns.size(0); i++) inside &= uint32_t(column[i]) < uint64_t(width);
  TORCH_CHECK_VALUE(inside, name, ": expected columns in 0..", width - 1, ", found others");
  return n;
}

void check_numbers(const at::Tensor& t, const char* name, int64_t size, int64_t low, int64_t high) {
  check_vector(t, name, at::kLong, size);
  const int64_t* value = t.const_data_ptr<int64_t>();
  for (int64_t i = 0; i < size; i++)
    TORCH_CHECK_VALUE(value[i] >= low && value[i] < high, name, ": expected ", low, "..", high - 1, ", found ", value[i],
                      " at index ", i);
}

}  // namespace splatseg

TORCH_LIBRARY_FRAGMENT(splatseg, m) {
  m.def(
      "observe_masks(Tensor offsets, Tensor ids, Tensor weights, Tensor patch, Tensor patch_offsets, Tensor patch_masks, "
      "int width, int count) -> (Tensor gaussians, Tensor weight, Tensor mask_offsets, Tensor masks)");
  m.def(
      "place_rows_(Tensor(a!) columns, Tensor(b!) cursor, Tensor rows, Tensor part_offsets, Tensor part_columns, int first) "
      "-> ()");
  m.def("transpose_rows(Tensor offsets, Tensor columns, int width) -> (Tensor offsets, Tensor rows)");
  m.def(
      "shared_weights(Tensor left_offsets, Tensor left_rows, Tensor right_offsets, Tensor right_columns, Tensor weights, "
      "int width) -> Tensor");
  m.def(
      "mask_agreement(Tensor by_mask_offsets, Tensor by_mask_rows, Tensor offsets, Tensor columns, Tensor weights, "
      "Tensor view, Tensor shown, float least) -> (Tensor mask, Tensor other, Tensor overlap)");
  m.def(
      "mask_matches(Tensor by_mask_offsets, Tensor by_mask_rows, Tensor offsets, Tensor columns, Tensor weights, "
      "Tensor view, Tensor own, Tensor shown, float least) -> (Tensor mask, Tensor set, Tensor overlap)");
  m.def(
      "mask_votes(Tensor offsets, Tensor columns, Tensor seen_offsets, Tensor seen_columns, Tensor seen_weights, "
      "Tensor view, Tensor owner, int views, int sets, float least) -> (Tensor offsets, Tensor sets, Tensor share)");
  m.def(
      "masks_agreed(Tensor offsets, Tensor columns, Tensor view, Tensor owner, Tensor set_offsets, Tensor set_columns, "
      "int sets) -> Tensor");
}
