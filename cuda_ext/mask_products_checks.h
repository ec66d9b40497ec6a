// Inputs of the products of masks and the checks that keep kernels inside their buffers. See splatseg/ops/mask_rows.py.
#pragma once

#include <ATen/core/Tensor.h>

#include <tuple>

#include "registration.h"

namespace splatseg {

using ObserveMasksOp = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor>(
    const at::Tensor& offsets, const at::Tensor& ids, const at::Tensor& weights, const at::Tensor& patch,
    const at::Tensor& patch_offsets, const at::Tensor& patch_masks, int64_t width, int64_t count);
using PlaceRowsOp = void(at::Tensor& columns, at::Tensor& cursor, const at::Tensor& rows, const at::Tensor& part_offsets,
                         const at::Tensor& part_columns, int64_t first);
using TransposeRowsOp = std::tuple<at::Tensor, at::Tensor>(const at::Tensor& offsets, const at::Tensor& columns,
                                                           int64_t width);
using SharedWeightsOp = at::Tensor(const at::Tensor& left_offsets, const at::Tensor& left_rows,
                                   const at::Tensor& right_offsets, const at::Tensor& right_columns,
                                   const at::Tensor& weights, int64_t width);
using MaskAgreementOp = std::tuple<at::Tensor, at::Tensor, at::Tensor>(
    const at::Tensor& by_mask_offsets, const at::Tensor& by_mask_rows, const at::Tensor& offsets, const at::Tensor& columns,
    const at::Tensor& weights, const at::Tensor& view, const at::Tensor& shown, double least);
using MaskMatchesOp = std::tuple<at::Tensor, at::Tensor, at::Tensor>(
    const at::Tensor& by_mask_offsets, const at::Tensor& by_mask_rows, const at::Tensor& offsets, const at::Tensor& columns,
    const at::Tensor& weights, const at::Tensor& view, const at::Tensor& own, const at::Tensor& shown, double least);
using MaskVotesOp = std::tuple<at::Tensor, at::Tensor, at::Tensor>(
    const at::Tensor& offsets, const at::Tensor& columns, const at::Tensor& seen_offsets, const at::Tensor& seen_columns,
    const at::Tensor& seen_weights, const at::Tensor& view, const at::Tensor& owner, int64_t views, int64_t sets,
    double least);
using MasksAgreedOp = at::Tensor(const at::Tensor& offsets, const at::Tensor& columns, const at::Tensor& view,
                                 const at::Tensor& owner, const at::Tensor& set_offsets, const at::Tensor& set_columns,
                                 int64_t sets);

// Each raises ValueError, naming the argument.
// t is (size,) of that type, contiguous.
void check_vector(const at::Tensor& t, const char* name, at::ScalarType type, int64_t size);
// offsets (n + 1,) int64 ascend from 0 to the number of columns (int32), each in 0..width - 1. Returns n.
int64_t check_rows(const at::Tensor& offsets, const at::Tensor& columns, int64_t width, const char* name);
// t (m,) int64 in low..high - 1.
void check_numbers(const at::Tensor& t, const char* name, int64_t size, int64_t low, int64_t high);

}  // namespace splatseg
