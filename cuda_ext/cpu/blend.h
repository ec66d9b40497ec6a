// blend: out[i] = sum_k w_k f[id_k] over the entries of CSR row rows[i], and its transpose. Free of ATen.
#pragma once

#include <cstdint>

#include "cpu/dispatch.h"

namespace splatseg {

enum class WeightType { half, single, full };

// Contributions in CSR form and the rows asked for. Features are double where the weights are, float otherwise.
struct BlendJob {
  const int64_t* offsets;  // (csr_rows + 1)
  const int32_t* ids;      // (entries)
  const void* weights;     // (entries), finite and >= 0
  WeightType weight_type;
  const int64_t* rows;  // (count), or null: row i is i
  int64_t csr_rows, entries, count;
  int64_t n, d;  // Gaussians and channels
};

// What the transpose adds to: (n, d) of the features' type, and the flags (n,) of the Gaussians added to, or null.
struct BlendSum {
  void* values;
  uint8_t* touched;
};

// A task of the transpose: output rows [begin, end), and every `shares`-th block of Gaussians from block `share`.
struct BlendShare {
  int64_t begin, end, share, shares;
};

// Gaussians are dealt to shares in blocks of this many: a block's gradients and flags lie on cache lines of its own.
constexpr int64_t kShareBlock = 64;

}  // namespace splatseg

// Rows [begin, end) of out (count, d). False, with out unfinished, where a row, an offset or an id is out of range.
SPLATSEG_KERNEL(bool, blend_forward,
                (const BlendJob& job, const void* features, void* out, int64_t begin, int64_t end))

// For output rows [begin, end), adds w_k grad[i] to sum[id_k] and sets touched[id_k] (may be null) for every entry whose block
// of kShareBlock ids falls to `share` of `shares` (a power of two). Every Gaussian adds up in row order, whatever the number
// of shares: no atomics, the same bits for any thread count. False where something is out of range.
SPLATSEG_KERNEL(bool, blend_backward,
                (const BlendJob& job, const void* grad, BlendSum sum, BlendShare share))
