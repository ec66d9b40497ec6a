// splatseg::patches: schema and the checks that every device shares. See ops/patches.py.
#include "patches_checks.h"

#include <torch/library.h>

namespace splatseg {

void check_patches(const at::Tensor& counts, const at::Tensor& offsets, int64_t height, int64_t width, double nesting) {
  TORCH_CHECK(counts.dim() == 1 && counts.scalar_type() == at::kInt && counts.is_contiguous(),
              "patches: counts: expected (r,) contiguous int32, found ", counts.sizes(), " ", counts.scalar_type());
  TORCH_CHECK(offsets.dim() == 1 && offsets.scalar_type() == at::kLong && offsets.is_contiguous() && offsets.size(0) >= 1,
              "patches: offsets: expected (n + 1,) contiguous int64, found ", offsets.sizes(), " ", offsets.scalar_type());
  TORCH_CHECK(height >= 1 && width >= 1 && height < (int64_t{1} << 31) / width,
              "patches: expected 1 to 2^31 - 1 pixels, found ", width, "x", height);
  TORCH_CHECK(nesting > 0 && nesting <= 1, "patches: nesting: expected a share in (0, 1], found ", nesting);
}

}  // namespace splatseg

TORCH_LIBRARY_FRAGMENT(splatseg, m) {
  m.def("patches(Tensor counts, Tensor offsets, int height, int width, float nesting) -> (Tensor ids, Tensor membership)");
}
