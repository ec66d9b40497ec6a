// Input checks of blend that every device shares.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

#include "registration.h"

namespace splatseg {

using BlendOp = at::Tensor(const at::Tensor& offsets, const at::Tensor& ids, const at::Tensor& weights,
                           const at::Tensor& features, const std::optional<at::Tensor>& rows);
using BlendTransposeOp = at::Tensor(const at::Tensor& offsets, const at::Tensor& ids, const at::Tensor& weights,
                                    const at::Tensor& grad, const std::optional<at::Tensor>& rows, int64_t n);
using BlendTransposeIntoOp = void(const at::Tensor& offsets, const at::Tensor& ids, const at::Tensor& weights,
                                  const at::Tensor& grad, const std::optional<at::Tensor>& rows, at::Tensor sum,
                                  at::Tensor touched);

// Contributions (offsets (m + 1,) int64, ids (e,) int32, weights (e,)) against a (n, d) or (r, d) matrix of float32 (weights
// float16 or float32) or float64 (weights float64); rows (r,) int64 or none. Ranges of values are checked by the kernels.
void check_blend(const at::Tensor& offsets, const at::Tensor& ids, const at::Tensor& weights, const at::Tensor& matrix,
                 const std::optional<at::Tensor>& rows);

// What blend_transpose_ adds to: sum (parts, n, d) and touched (parts, n) uint8, contiguous, beside grad (r, d). Each part
// takes an equal run of the output rows; the gradient is the sum over parts.
void check_blend_sum(const at::Tensor& grad, const at::Tensor& sum, const at::Tensor& touched);

// Rows of the result: those asked for, or all.
int64_t blend_count(const at::Tensor& offsets, const std::optional<at::Tensor>& rows);

}  // namespace splatseg
