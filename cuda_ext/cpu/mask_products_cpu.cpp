// The products of masks on the CPU: tensors in, tensors out; the work is in mask_products.h.
#include "cpu/mask_products.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <cstring>

#include "mask_products_checks.h"

namespace splatseg {
namespace {

using at::Tensor;

SparseRows rows_of(const Tensor& offsets, const Tensor& columns, int64_t width, const char* name) {
  const int64_t count = check_rows(offsets, columns, width, name);
  return {count, offsets.const_data_ptr<int64_t>(), columns.const_data_ptr<int32_t>()};
}

template <class T>
Tensor to_tensor(const std::vector<T>& values, at::ScalarType type) {
  Tensor found = at::empty({int64_t(values.size())}, at::TensorOptions(type));
  if (!values.empty()) std::memcpy(found.mutable_data_ptr(), values.data(), sizeof(T) * values.size());
  return found;
}

void check_size(int64_t found, int64_t expected, const char* name) {
  TORCH_CHECK_VALUE(found == expected, name, ": expected ", expected, " rows, found ", found);
}

void check_table(const Tensor& t, const char* name, int64_t rows) {
  TORCH_CHECK_VALUE(t.dim() == 2 && t.size(0) == rows && t.scalar_type() == at::kFloat && t.is_contiguous(), name,
                    ": expected (", rows, ", views) contiguous float32, found ", t.sizes(), " ", t.scalar_type());
}

std::tuple<Tensor, Tensor, Tensor, Tensor> observe(const Tensor& offsets, const Tensor& ids, const Tensor& weights,
                                                   const Tensor& patch, const Tensor& patch_offsets,
                                                   const Tensor& patch_masks, int64_t width, int64_t count) {
  const SparseRows pixels = rows_of(offsets, ids, count, "ids");
  check_vector(weights, "weights", at::kFloat, ids.size(0));
  TORCH_CHECK_VALUE(ids.size(0) < INT32_MAX, "ids: expected fewer than 2^31, found ", ids.size(0));
  const SparseRows patches = rows_of(patch_offsets, patch_masks, width, "patch_masks");
  check_numbers(patch, "patch", pixels.count, 0, patches.count);
  const Observed found = observe_masks(pixels, weights.const_data_ptr<float>(), patch.const_data_ptr<int64_t>(), patches,
                                       width, count, at::get_num_threads());
  return {to_tensor(found.gaussians, at::kInt), to_tensor(found.weight, at::kFloat),
          to_tensor(found.masks.offsets, at::kLong), to_tensor(found.masks.columns, at::kInt)};
}

void place(Tensor& columns, Tensor& cursor, const Tensor& rows, const Tensor& part_offsets, const Tensor& part_columns,
           int64_t first) {
  const SparseRows part = rows_of(part_offsets, part_columns, INT32_MAX - 1, "part_columns");
  check_vector(rows, "rows", at::kInt, part.count);
  check_vector(cursor, "cursor", at::kLong, cursor.numel());
  check_vector(columns, "columns", at::kInt, columns.numel());
  TORCH_CHECK_VALUE(first >= 0 && first < INT32_MAX, "first: expected 0..2^31 - 2, found ", first);
  const int32_t* row = rows.const_data_ptr<int32_t>();
  int64_t* next = cursor.data_ptr<int64_t>();
  int32_t* out = columns.data_ptr<int32_t>();
  for (int64_t k = 0; k < part.count; k++) {
    TORCH_CHECK_VALUE(row[k] >= 0 && row[k] < cursor.size(0), "rows: expected 0..", cursor.size(0) - 1, ", found ", row[k]);
    int64_t& at = next[row[k]];
    TORCH_CHECK_VALUE(at >= 0 && at + part.size(k) <= columns.size(0), "cursor: expected room for ", part.size(k),
                      " entries within ", columns.size(0), ", found place ", at, " of row ", row[k]);
    for (const int32_t* column = part.begin(k); column < part.end(k); column++) out[at++] = *column + int32_t(first);
  }
}

std::tuple<Tensor, Tensor> transpose(const Tensor& offsets, const Tensor& columns, int64_t width) {
  const SparseRows rows = rows_of(offsets, columns, width, "columns");
  TORCH_CHECK_VALUE(rows.count < INT32_MAX, "offsets: expected fewer than 2^31 rows, found ", rows.count);
  Tensor turned = at::empty({width + 1}, offsets.options()), found = at::empty({columns.size(0)}, columns.options());
  transpose_rows(rows, width, turned.data_ptr<int64_t>(), found.data_ptr<int32_t>());
  return {turned, found};
}

Tensor shared(const Tensor& left_offsets, const Tensor& left_rows, const Tensor& right_offsets, const Tensor& right_columns,
              const Tensor& weights, int64_t width) {
  const SparseRows right = rows_of(right_offsets, right_columns, width, "right_columns");
  const SparseRows left = rows_of(left_offsets, left_rows, right.count, "left_rows");
  check_vector(weights, "weights", at::kFloat, right.count);
  Tensor out = at::empty({left.count, width}, weights.options());
  shared_weights(left, right, weights.const_data_ptr<float>(), width, out.data_ptr<float>(), at::get_num_threads());
  return out;
}

std::tuple<Tensor, Tensor, Tensor> to_tensors(const Overlaps& found) {
  return {to_tensor(found.row, at::kLong), to_tensor(found.column, at::kLong), to_tensor(found.value, at::kFloat)};
}

std::tuple<Tensor, Tensor, Tensor> agreement(const Tensor& by_mask_offsets, const Tensor& by_mask_rows,
                                             const Tensor& offsets, const Tensor& columns, const Tensor& weights,
                                             const Tensor& view, const Tensor& shown, double least) {
  const int64_t count = by_mask_offsets.numel() - 1;
  const SparseRows masks = rows_of(offsets, columns, count, "columns");
  const SparseRows by_mask = rows_of(by_mask_offsets, by_mask_rows, masks.count, "by_mask_rows");
  check_vector(weights, "weights", at::kFloat, masks.count);
  check_table(shown, "shown", count);
  check_numbers(view, "view", count, 0, shown.size(1));
  return to_tensors(mask_agreement(by_mask, masks, weights.const_data_ptr<float>(), view.const_data_ptr<int64_t>(),
                                   shown.const_data_ptr<float>(), shown.size(1), float(least), at::get_num_threads()));
}

std::tuple<Tensor, Tensor, Tensor> matches(const Tensor& by_mask_offsets, const Tensor& by_mask_rows, const Tensor& offsets,
                                           const Tensor& columns, const Tensor& weights, const Tensor& view,
                                           const Tensor& own, const Tensor& shown, double least) {
  check_table(shown, "shown", shown.dim() == 2 ? shown.size(0) : 0);
  const SparseRows sets = rows_of(offsets, columns, shown.size(0), "columns");
  const SparseRows by_mask = rows_of(by_mask_offsets, by_mask_rows, sets.count, "by_mask_rows");
  check_vector(weights, "weights", at::kFloat, sets.count);
  check_vector(own, "own", at::kFloat, by_mask.count);
  check_numbers(view, "view", by_mask.count, 0, shown.size(1));
  return to_tensors(mask_matches(by_mask, sets, weights.const_data_ptr<float>(), view.const_data_ptr<int64_t>(),
                                 own.const_data_ptr<float>(), shown.const_data_ptr<float>(), shown.size(0), shown.size(1),
                                 float(least), at::get_num_threads()));
}

std::tuple<Tensor, Tensor, Tensor> votes(const Tensor& offsets, const Tensor& columns, const Tensor& seen_offsets,
                                         const Tensor& seen_columns, const Tensor& seen_weights, const Tensor& view,
                                         const Tensor& owner, int64_t views, int64_t sets, double least) {
  VoteArgs args{};
  args.mask_count = view.numel();
  args.views = views;
  args.sets = sets;
  args.least = least;
  args.threads = at::get_num_threads();
  args.masks = rows_of(offsets, columns, args.mask_count, "columns");
  args.seen = rows_of(seen_offsets, seen_columns, views, "seen_columns");
  check_size(args.seen.count, args.masks.count, "seen_offsets");
  check_vector(seen_weights, "seen_weights", at::kFloat, seen_columns.size(0));
  check_numbers(view, "view", args.mask_count, 0, views);
  check_numbers(owner, "owner", args.mask_count, -1, sets);
  args.seen_weights = seen_weights.const_data_ptr<float>();
  args.view = view.const_data_ptr<int64_t>();
  args.owner = owner.const_data_ptr<int64_t>();
  const FoundRows found = mask_votes(args);
  return {to_tensor(found.offsets, at::kLong), to_tensor(found.columns, at::kInt), to_tensor(found.values, at::kFloat)};
}

Tensor agreed(const Tensor& offsets, const Tensor& columns, const Tensor& view, const Tensor& owner,
              const Tensor& set_offsets, const Tensor& set_columns, int64_t sets) {
  const int64_t count = view.numel();
  const SparseRows masks = rows_of(offsets, columns, count, "columns");
  const SparseRows inside = rows_of(set_offsets, set_columns, sets, "set_columns");
  check_size(inside.count, masks.count, "set_offsets");
  check_vector(view, "view", at::kLong, count);
  check_numbers(owner, "owner", count, -1, sets);
  Tensor out = at::empty({masks.count}, columns.options());
  masks_agreed(masks, view.const_data_ptr<int64_t>(), owner.const_data_ptr<int64_t>(), inside, sets,
               out.data_ptr<int32_t>(), at::get_num_threads());
  return out;
}

}  // namespace
}  // namespace splatseg

TORCH_LIBRARY_IMPL(splatseg, CPU, m) {
  m.impl("observe_masks", splatseg::kernel<splatseg::ObserveMasksOp>(splatseg::observe));
  m.impl("place_rows_", splatseg::kernel<splatseg::PlaceRowsOp>(splatseg::place));
  m.impl("transpose_rows", splatseg::kernel<splatseg::TransposeRowsOp>(splatseg::transpose));
  m.impl("shared_weights", splatseg::kernel<splatseg::SharedWeightsOp>(splatseg::shared));
  m.impl("mask_agreement", splatseg::kernel<splatseg::MaskAgreementOp>(splatseg::agreement));
  m.impl("mask_matches", splatseg::kernel<splatseg::MaskMatchesOp>(splatseg::matches));
  m.impl("mask_votes", splatseg::kernel<splatseg::MaskVotesOp>(splatseg::votes));
  m.impl("masks_agreed", splatseg::kernel<splatseg::MasksAgreedOp>(splatseg::agreed));
}
