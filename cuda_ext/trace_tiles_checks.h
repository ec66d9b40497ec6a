// Input checks of trace_tiles that every device shares.
#pragma once

#include <ATen/core/Tensor.h>

#include <tuple>

#include "registration.h"

namespace splatseg {

using TraceTilesOp = std::tuple<at::Tensor, at::Tensor, at::Tensor>(const at::Tensor& means2d, const at::Tensor& conics,
                                                                    const at::Tensor& opacities,
                                                                    const at::Tensor& tile_offsets,
                                                                    const at::Tensor& tile_list, const at::Tensor& pixels,
                                                                    int64_t columns, double min_weight);

// Raises ValueError unless shapes and dtypes are what the schema promises. Values are not looked at.
void check_trace_tiles(const at::Tensor& means2d, const at::Tensor& conics, const at::Tensor& opacities,
                       const at::Tensor& tile_offsets, const at::Tensor& tile_list, const at::Tensor& pixels,
                       int64_t columns);

}  // namespace splatseg
