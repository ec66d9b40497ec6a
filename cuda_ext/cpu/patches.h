#pragma once
#include <cstdint>
#include <vector>

namespace splatseg {

using Bits = uint64_t;

// Run-length encoded masks: mask m owns counts[offsets[m] .. offsets[m + 1]), zeros first, column by column.
struct MaskRuns {
  const int32_t* counts;
  const int64_t* offsets;
  int64_t masks;
  int64_t pixels;
};

// Patch k lies in the masks set in membership[k * words ..]; areas are pixels. Patch 0 lies in none and may be empty.
struct Patches {
  int64_t words;
  std::vector<Bits> membership;
  std::vector<int64_t> areas;
  int64_t size() const { return static_cast<int64_t>(areas.size()); }
};

// Whether every mask's runs are non-negative and sum to `pixels` and offsets ascend within [0, total].
bool valid_runs(const MaskRuns& runs, int64_t total);

// Writes the patch of each pixel, column by column, to ids (pixels of them). Patches are numbered by their first pixel.
Patches find_patches(const MaskRuns& runs, int32_t* ids);

// Unites every mask, in order, with the earlier ones of which it covers more than `nesting` (both as grown so far); merges the
// patches that become one. Returns the new number of each old patch.
std::vector<int32_t> absorb_nested(Patches& patches, int64_t masks, double nesting);

// out[row * width + column] = number[ids[column * height + row]].
void to_rows(const int32_t* ids, const std::vector<int32_t>& number, int64_t height, int64_t width, int32_t* out);

}  // namespace splatseg
