// splatseg::trace_tiles: schema and the checks that devices share. See ops/trace_tiles.py.
#include "trace_tiles_checks.h"

#include <torch/library.h>

namespace splatseg {

void check_trace_tiles(const at::Tensor& means2d, const at::Tensor& conics, const at::Tensor& opacities,
                       const at::Tensor& tile_offsets, const at::Tensor& tile_list, const at::Tensor& pixels,
                       int64_t columns) {
  const int64_t n = means2d.size(0);
  TORCH_CHECK_VALUE(means2d.sizes() == at::IntArrayRef({n, 2}) && conics.sizes() == at::IntArrayRef({n, 3}) &&
                        opacities.sizes() == at::IntArrayRef({n}),
                    "trace_tiles: expected means2d (n, 2), conics (n, 3) and opacities (n,), found ", means2d.sizes(), ", ",
                    conics.sizes(), " and ", opacities.sizes());
  for (const auto* t : {&means2d, &conics, &opacities})
    TORCH_CHECK_VALUE(t->scalar_type() == at::kFloat, "trace_tiles: expected float32, found ", t->scalar_type());
  TORCH_CHECK_VALUE(tile_offsets.dim() == 1 && tile_list.dim() == 1 && tile_offsets.scalar_type() == at::kInt &&
                        tile_list.scalar_type() == at::kInt,
                    "trace_tiles: expected 1-dimensional int32 tile_offsets and tile_list");
  TORCH_CHECK_VALUE(pixels.dim() == 2 && pixels.size(1) == 2 && pixels.scalar_type() == at::kInt,
                    "pixels: expected shape (m, 2) int32, found ", pixels.sizes(), " ", pixels.scalar_type());
  TORCH_CHECK_VALUE(columns > 0 && tile_offsets.size(0) % columns == 0, "columns: expected a divisor of ",
                    tile_offsets.size(0), " tiles, found ", columns);
  TORCH_CHECK_VALUE(n < INT32_MAX && pixels.size(0) < INT32_MAX && tile_list.size(0) < INT32_MAX,
                    "trace_tiles: expected fewer than 2^31 - 1 rows");
}

}  // namespace splatseg

TORCH_LIBRARY_FRAGMENT(splatseg, m) {
  m.def(
      "trace_tiles(Tensor means2d, Tensor conics, Tensor opacities, Tensor tile_offsets, Tensor tile_list, Tensor pixels, "
      "int columns, float min_weight) -> (Tensor offsets, Tensor ids, Tensor weights)");
}
