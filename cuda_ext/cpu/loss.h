#pragma once
#include <stdint.h>

#include "cpu/dispatch.h"
#include "cpu/levels.h"

namespace splatseg {

// Samples that the kernel treats together, one a lane.
constexpr int64_t kBlockLanes = 16;

// Everything one call needs, as plain pointers. Kept samples are sorted by patch; patches are numbered 0..k-1 here.
// `row` is d rounded up to whole vectors; padded entries are zero.
template <class T>
struct LossProblem {
  int64_t n, d, row, k;  // n: kept samples
  const T* features;     // (any, d) as given
  const int32_t* order;  // (n,) row of `features` of each kept sample
  const int32_t* start;  // (k + 1,) first kept sample of each patch
  LevelTables levels;

  int64_t blocks;  // runs of kBlockLanes samples
  int64_t chunks;  // runs of blocks; a function of the problem alone, so results do not depend on threads

  double phi_min, phi_max, phi_scale, level_decay, weight;
  bool with_grad;
  int threads;

  T* unit;             // (n, row) f^
  T* inverse_norm;     // (n,) 1 / (|f| + 1e-6)
  T* mean;             // (k, row) u_k log2(e) / phi_k
  T* phi;              // (k,) NaN where a feature of the patch is not finite
  T* mean_grad;        // (chunks, k, row) gradient of u_k / phi_k, a slot a chunk
  double* chunk_loss;  // (chunks,)
  T* lanes;            // (threads, lane_scratch(k, row))
  T* grad;             // (any, d) out; rows of samples that were not kept are left alone
};

// Scratch of one thread, in scalars.
constexpr int64_t lane_scratch(int64_t k, int64_t row) { return kBlockLanes * (2 * k + 2 * row); }

}  // namespace splatseg

// Returns the loss and fills problem.grad (if with_grad).
SPLATSEG_KERNEL(double, contrastive_loss, (const splatseg::LossProblem<float>& problem))
SPLATSEG_KERNEL(double, contrastive_loss, (const splatseg::LossProblem<double>& problem))
