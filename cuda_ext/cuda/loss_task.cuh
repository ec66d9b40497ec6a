// What the kernels of the hierarchical contrastive loss share: one struct of pointers and its layout in memory.
#pragma once
#include "cuda/device.cuh"

namespace splatseg::cuda {

constexpr int kLossSamples = 64;      // samples of one anchor that a block treats
constexpr int kLossThreads = 256;     // of that block
constexpr int kLossRows = 64;         // patches that it treats at a time
constexpr int kLossHeld = 256;        // patches up to which it holds all means at once
constexpr int kSortChunk = 512;       // samples that one warp places
constexpr int kMaxPatches = 1 << 16;  // kept patches: tables hold 16-bit numbers
constexpr int kHeld = 4096;           // patches whose integers are held in shared memory; of more, in global memory
constexpr int kWordBits = 64;         // masks in a word of membership

// A tile: up to 64 samples of one kept patch. Work is dealt out by tiles and not by patches, as one patch may hold a third of
// all samples.
struct alignas(16) LossTile {
  int anchor, begin, samples;  // number of the patch; first of the sorted samples
  int first, tiles, of_patch;  // the patch's first tile, its tiles, its samples
  int unused[2];
};

// Samples of a loss: known before their features are.
struct LossCounts {
  int kept, tiles, sorted, all;  // kept patches, their tiles, their samples, all samples
};

// Where the tables of a set of samples lie, in bytes from their start. They depend on patches and masks alone.
struct TableLayout {
  int64_t counts, id, start, tiles, related, ends, n_levels, bytes;
};

// The batches of a pool, of which a replayed step takes one; `cells` is null for a loss on its own. What changes from step to
// step is read from the device, so that one captured graph serves all.
template <class T>
struct PoolBatches {
  int64_t steps, batches, views;
  int64_t* cells;              // (3,) number of the next step, of the one that is on, and the latter's batch, or -1
  const int* schedule;         // (steps,) batch of each
  const int64_t* batch_start;  // (batches + 1,) first of each batch's rows
  const int* view;             // (batches,) whose masks count
  T* losses;                   // (steps,)
  bool prepared;               // whether each batch has tables; else one set is made anew in every step
};

template <class T>
struct LossTask {
  // Given. Exactly one of votes and membership is set.
  int n, d, patches, words, min_pixels;
  bool with_grad;
  bool sorted;  // samples come by patch, those that are not kept last: then there is no order
  double phi_min, phi_max, phi_scale, level_decay, weight;
  const T* features;          // (n, d)
  const int* patch;           // (n,) ids; those outside [1, patches) are left out
  const int* votes;           // (patches, patches)
  const int64_t* membership;  // (patches, words)
  T* loss;                    // () out
  T* grad;                    // (n, d) out; 0 in rows that are not kept
  PoolBatches<T> pool;
  int64_t first_row;          // of the batch that was taken, among the rows of all

  // Bounds known without asking the device.
  int k_max, chunks, tiles_max, levels_max;
  int held;  // rows of means that a block of the loss holds: all patches', or those that it treats at a time

  TableLayout at;
  char* tables;

  // Scratch; cleared first, up to `order`.
  int* histogram;     // (chunks, patches) samples of each patch; then, those in earlier chunks
  int* poisoned;      // () whether a kept feature is not finite
  int* arrived;       // (2 + k_max,) blocks that are through with: counting, the loss, each patch's spread
  void* mean_grad;    // (k_max, d) cells of the sum in use
  int* order;         // (n,) rows of kept samples, sorted by patch
  int* slot;          // (patches,) number of the kept patch, or -1
  T* unit;            // (n, d) f^, sorted
  T* unit_grad;       // (n, d)
  T* norm;            // (n,) |f| + 1e-6
  T* mean;            // (k_max, d) u log2(e) / phi
  T* phi;             // (k_max,)
  T* part_sum;        // (tiles_max parts, d) sum of f^ over the samples of each part of a tile
  T* tile_spread;     // (tiles_max,) sum of their distances to the patch's mean
  double* tile_loss;  // (tiles_max,)

  template <class V>
  __device__ V* table(int64_t offset) const {
    return reinterpret_cast<V*>(tables + offset);
  }
  __device__ LossCounts& counts() const { return *table<LossCounts>(at.counts); }
  __device__ int* id() const { return table<int>(at.id); }           // (k_max,) of the kept patches
  __device__ int* start() const { return table<int>(at.start); }     // (k_max + 1,) first sample of each
  __device__ LossTile* tiles() const { return table<LossTile>(at.tiles); }  // (tiles_max,)
  // (k_max,) all kept patches; first those of the anchor's levels, by falling votes, then by number
  __device__ uint16_t* related(int anchor) const { return table<uint16_t>(at.related) + (int64_t)anchor * k_max; }
  // (levels_max,) last patch of each level in `related`
  __device__ uint16_t* ends(int anchor) const { return table<uint16_t>(at.ends) + (int64_t)anchor * levels_max; }
  __device__ int* n_levels() const { return table<int>(at.n_levels); }  // (k_max,)

  // Turns to the batch of a replayed step: in its first kernels, which count themselves what comes next, and in those after
  // blend, which noted it. False where no step is left. A loss on its own has one set of samples.
  __device__ bool upcoming() {
    if (!pool.cells) return true;
    const int64_t step = pool.cells[0];
    return take(step >= 0 && step < pool.steps ? pool.schedule[step] : -1);
  }
  __device__ bool current() { return !pool.cells || take_tables(pool.cells[2]); }

  __device__ bool take(int64_t batch) {
    if (!take_tables(batch)) return false;
    const int64_t first = pool.batch_start[batch], samples = pool.batch_start[batch + 1] - first;
    const int64_t view = pool.view[batch];
    if (first < 0 || samples < 0 || view < 0 || view >= pool.views) return false;
    n = samples < n ? (int)samples : n;
    first_row = first;
    patch += first;
    membership += view * patches * words;
    return true;
  }
  __device__ bool take_tables(int64_t batch) {
    if (batch < 0 || batch >= pool.batches) return false;
    if (pool.prepared) tables += batch * at.bytes;
    return true;
  }
};

// Deals memory out in pieces of 256 bytes.
struct Layout {
  int64_t used = 0;

  int64_t take(int64_t count, int64_t size) {
    const int64_t at = used;
    used += (count * size + 255) / 256 * 256;
    return at;
  }
};

// Sets the bounds and lays out the tables, from n, patches, words (0 beside votes) and min_pixels.
template <class T>
void lay_out_tables(LossTask<T>& t) {
  const int enough = t.n / t.min_pixels < t.patches - 1 ? t.n / t.min_pixels : t.patches - 1;
  t.k_max = enough > 0 ? enough : 0;
  t.chunks = (t.n + kSortChunk - 1) / kSortChunk;
  t.tiles_max = t.n / kLossSamples + t.k_max + (t.n < kLossSamples && t.k_max == 0);  // a grid has a block
  const int64_t masks = (int64_t)t.words * kWordBits;  // votes differ that often at most
  t.levels_max = t.words > 0 && masks < t.k_max ? (int)masks : t.k_max;
  Layout layout;
  const int64_t k = t.k_max;
  t.at.counts = layout.take(1, sizeof(LossCounts));
  t.at.id = layout.take(k, sizeof(int));
  t.at.start = layout.take(k + 1, sizeof(int));
  t.at.tiles = layout.take(t.tiles_max, sizeof(LossTile));
  t.at.related = layout.take(k * k, sizeof(uint16_t));
  t.at.ends = layout.take(k * t.levels_max, sizeof(uint16_t));
  t.at.n_levels = layout.take(k, sizeof(int));
  t.at.bytes = layout.used;
}

// Points the scratch into `base`, of a task whose tables are laid out; returns the bytes used, so a first call with null
// measures. `parts`: sums of f^ a tile.
template <class T>
int64_t lay_out(LossTask<T>& t, char* base, int64_t& cleared, int parts = 1) {
  Layout layout;
  const auto take = [&](auto*& pointer, int64_t count, int64_t size) {
    pointer = reinterpret_cast<std::remove_reference_t<decltype(pointer)>>(base + layout.take(count, size));
  };
  const int64_t n = t.n, k = t.k_max, d = t.d;
  take(t.histogram, (int64_t)t.chunks * t.patches, sizeof(int));
  take(t.poisoned, 1, sizeof(int));
  take(t.arrived, 2 + k, sizeof(int));
  take(t.mean_grad, k * d, sizeof(unsigned long long));
  cleared = layout.used;
  take(t.order, t.sorted ? 0 : n, sizeof(int));
  take(t.slot, t.patches, sizeof(int));
  take(t.unit, n * d, sizeof(T));
  take(t.unit_grad, t.with_grad ? n * d : 0, sizeof(T));
  take(t.norm, n, sizeof(T));
  take(t.mean, k * d, sizeof(T));
  take(t.phi, k, sizeof(T));
  take(t.part_sum, t.tiles_max * parts * d, sizeof(T));
  take(t.tile_spread, t.tiles_max, sizeof(T));
  take(t.tile_loss, t.tiles_max, sizeof(double));
  return layout.used;
}

}  // namespace splatseg::cuda
