#pragma once
#include <ATen/ATen.h>

#include <tuple>

#include "registration.h"

namespace splatseg {

using PatchesOp = std::tuple<at::Tensor, at::Tensor>(const at::Tensor& counts, const at::Tensor& offsets, int64_t height,
                                                     int64_t width, double nesting);

// Throws c10::Error naming the argument unless shapes, dtypes, layout and ranges fit.
void check_patches(const at::Tensor& counts, const at::Tensor& offsets, int64_t height, int64_t width, double nesting);

}  // namespace splatseg
