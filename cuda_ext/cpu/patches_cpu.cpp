#include <torch/library.h>

#include <memory>
#include <numeric>

#include "cpu/patches.h"
#include "patches_checks.h"

namespace splatseg {
namespace {

std::tuple<at::Tensor, at::Tensor> patches_cpu(const at::Tensor& counts, const at::Tensor& offsets, int64_t height,
                                               int64_t width, double nesting) {
  check_patches(counts, offsets, height, width, nesting);
  const MaskRuns runs{counts.const_data_ptr<int32_t>(), offsets.const_data_ptr<int64_t>(), offsets.size(0) - 1,
                      height * width};
  TORCH_CHECK(counts.size(0) < (int64_t{1} << 32), "patches: counts: expected fewer than 2^32, found ", counts.size(0));
  TORCH_CHECK(valid_runs(runs, counts.size(0)), "patches: expected run lengths of each mask >= 0 that sum to ", runs.pixels);

  const std::unique_ptr<int32_t[]> columns(new int32_t[runs.pixels]);
  Patches patches = find_patches(runs, columns.get());
  std::vector<int32_t> number;
  if (nesting < 1) {
    number = absorb_nested(patches, runs.masks, nesting);
  } else {
    number.resize(patches.size());
    std::iota(number.begin(), number.end(), 0);
  }
  at::Tensor ids = at::empty({height, width}, counts.options());
  to_rows(columns.get(), number, height, width, ids.data_ptr<int32_t>());
  at::Tensor membership = at::empty({patches.size(), patches.words}, offsets.options());
  std::copy(patches.membership.begin(), patches.membership.end(), reinterpret_cast<Bits*>(membership.data_ptr<int64_t>()));
  return {ids, membership};
}

}  // namespace
}  // namespace splatseg

TORCH_LIBRARY_IMPL(splatseg, CPU, m) {
  m.impl("patches", splatseg::kernel<splatseg::PatchesOp>(splatseg::patches_cpu));
}
