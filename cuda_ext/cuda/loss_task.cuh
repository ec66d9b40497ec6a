// What the kernels of the hierarchical contrastive loss share: one struct of pointers and its layout in memory.
#pragma once
#include "cuda/device.cuh"

namespace splatseg::cuda {

constexpr int kLossSamples = 64;      // samples of one anchor that a block treats
constexpr int kLossThreads = 256;     // of that block
constexpr int kLossRows = 64;         // patches that it treats at a time
constexpr int kSortChunk = 512;       // samples that one warp places
constexpr int kMaxPatches = 1 << 16;  // kept patches: tables hold 16-bit numbers
constexpr int kHeld = 4096;           // patches whose integers are held in shared memory; of more, in global memory

template <class T>
struct LossTask {
  // Given. Exactly one of votes and membership is set.
  int n, d, patches, words, min_pixels;
  bool with_grad;
  double phi_min, phi_max, phi_scale, level_decay, weight;
  const T* features;          // (n, d)
  const int* patch;           // (n,) ids; those outside [1, patches) are left out
  const int* votes;           // (patches, patches)
  const int64_t* membership;  // (patches, words)
  T* loss;                    // () out
  T* grad;                    // (n, d) out; 0 in rows that are not kept

  // Bounds known without asking the device.
  int k_max, chunks, tiles_max;

  // Scratch; cleared first, up to `order`.
  int* histogram;     // (chunks, patches) samples of each patch; then, those in earlier chunks
  int* poisoned;      // () whether a kept feature is not finite
  int* arrived;       // (2 + 2 k_max,) blocks that are through with: counting, the loss, each patch's sum, its spread
  void* mean_grad;    // (k_max, d) cells of the sum in use
  int* order;         // (n,) rows of kept samples, sorted by patch
  int* slot;          // (patches,) number of the kept patch, or -1
  int* id;            // (k_max,) and back
  int* start;         // (k_max + 1,) first sample of each kept patch
  int* tile_start;    // (k_max + 1,) first tile of each kept patch
  int* k;             // () kept patches
  T* unit;            // (n, d) f^, sorted
  T* unit_grad;       // (n, d)
  T* norm;            // (n,) |f| + 1e-6
  T* mean;            // (k_max, d) u log2(e) / phi
  T* phi;             // (k_max,)
  T* tile_sum;        // (tiles_max, d) sum of f^ over the samples of each tile
  T* tile_spread;     // (tiles_max,) sum of their distances to the patch's mean
  uint16_t* related;  // (k_max, k_max) all kept patches; first those of the anchor's levels, by falling votes, then by number
  uint16_t* ends;     // (k_max, k_max) end of each level in `related`
  int* n_levels;      // (k_max,)
  double* tile_loss;  // (tiles_max,)
};

// Sets the bounds and points the scratch into `base`; returns the bytes used, so a first call with null measures.
template <class T>
int64_t lay_out(LossTask<T>& t, char* base, int64_t& cleared) {
  t.k_max = t.n / t.min_pixels < t.patches - 1 ? t.n / t.min_pixels : t.patches - 1;
  t.chunks = (t.n + kSortChunk - 1) / kSortChunk;
  t.tiles_max = t.n / kLossSamples + t.k_max;
  int64_t used = 0;
  const auto take = [&](auto*& pointer, int64_t count, int64_t size) {
    pointer = reinterpret_cast<std::remove_reference_t<decltype(pointer)>>(base + used);
    used += (count * size + 255) / 256 * 256;
  };
  const int64_t n = t.n, k = t.k_max, d = t.d;
  take(t.histogram, (int64_t)t.chunks * t.patches, sizeof(int));
  take(t.poisoned, 1, sizeof(int));
  take(t.arrived, 2 + 2 * k, sizeof(int));
  take(t.mean_grad, k * d, sizeof(unsigned long long));
  cleared = used;
  take(t.order, n, sizeof(int));
  take(t.slot, t.patches, sizeof(int));
  take(t.id, k, sizeof(int));
  take(t.start, k + 1, sizeof(int));
  take(t.tile_start, k + 1, sizeof(int));
  take(t.k, 1, sizeof(int));
  take(t.unit, n * d, sizeof(T));
  take(t.unit_grad, t.with_grad ? n * d : 0, sizeof(T));
  take(t.norm, n, sizeof(T));
  take(t.mean, k * d, sizeof(T));
  take(t.phi, k, sizeof(T));
  take(t.tile_sum, t.tiles_max * d, sizeof(T));
  take(t.tile_spread, t.tiles_max, sizeof(T));
  take(t.related, k * k, sizeof(uint16_t));
  take(t.ends, k * k, sizeof(uint16_t));
  take(t.n_levels, k, sizeof(int));
  take(t.tile_loss, t.tiles_max, sizeof(double));
  return used;
}

}  // namespace splatseg::cuda
