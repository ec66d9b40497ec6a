// Before the loss proper: samples sorted by patch, patch means and concentrations, level tables. No host synchronisation:
// blocks beyond the number of kept patches, which only the device knows, return.
#pragma once
#include "cuda/loss_task.cuh"

namespace splatseg::cuda {

// Grid: chunks. Counts each chunk's samples by patch; integers, so the order of additions does not matter.
template <class T>
__global__ void count_samples(LossTask<T> t) {
  const int end = min(t.n, (int)(blockIdx.x + 1) * kSortChunk);
  for (int i = blockIdx.x * kSortChunk + threadIdx.x; i < end; i += blockDim.x) {
    const int id = t.patch[i];
    if (id > 0 && id < t.patches) atomicAdd(t.histogram + (int64_t)blockIdx.x * t.patches + id, 1);
  }
}

// One block. Numbers the patches with enough samples, in order of id, and lays out their samples and tiles.
template <class T>
__global__ void __launch_bounds__(1024) select_patches(LossTask<T> t) {
  int* scratch = reinterpret_cast<int*>(dynamic_shared());
  int patches_before = 0, samples_before = 0, tiles_before = 0;
  for (int base = 0; base < t.patches; base += blockDim.x) {
    const int id = base + threadIdx.x;
    int count = 0;
    constexpr int kAhead = 16;  // cells read before the first is written
    for (int chunk = 0; id < t.patches && chunk < t.chunks; chunk += kAhead) {
      int own[kAhead];
#pragma unroll
      for (int a = 0; a < kAhead; a++) {
        own[a] = chunk + a < t.chunks ? t.histogram[(int64_t)(chunk + a) * t.patches + id] : 0;
      }
#pragma unroll
      for (int a = 0; a < kAhead; a++) {
        if (chunk + a < t.chunks) t.histogram[(int64_t)(chunk + a) * t.patches + id] = count;
        count += own[a];
      }
    }
    const bool kept = id > 0 && id < t.patches && count >= t.min_pixels;
    int patches, samples, tiles;
    const int number = patches_before + block_exclusive_scan(kept, scratch, patches);
    const int start = samples_before + block_exclusive_scan(kept ? count : 0, scratch, samples);
    const int tile = tiles_before + block_exclusive_scan(kept ? (count + kLossLanes - 1) / kLossLanes : 0, scratch, tiles);
    if (id < t.patches) t.slot[id] = kept ? number : -1;
    if (kept) {
      t.id[number] = id;
      t.start[number] = start;
      t.tile_start[number] = tile;
    }
    patches_before += patches;
    samples_before += samples;
    tiles_before += tiles;
  }
  if (threadIdx.x == 0) {
    *t.k = patches_before;
    t.start[patches_before] = samples_before;
    t.tile_start[patches_before] = tiles_before;
  }
}

// Grid: chunks, one warp each. Stable: samples of a patch keep their order, so that sums over them have a fixed order.
template <class T>
__global__ void place_samples(LossTask<T> t) {
  int* before = t.histogram + (int64_t)blockIdx.x * t.patches;
  constexpr int kSteps = kSortChunk / kWarp;
  int ids[kSteps];  // all read ahead of the first store, so that their latencies overlap
#pragma unroll
  for (int step = 0; step < kSteps; step++) {
    const int i = blockIdx.x * kSortChunk + step * kWarp + threadIdx.x;
    ids[step] = i < t.n ? t.patch[i] : 0;
  }
#pragma unroll
  for (int step = 0; step < kSteps; step++) {
    const bool inside = ids[step] > 0 && ids[step] < t.patches;
    if (!inside || t.slot[ids[step]] < 0) ids[step] = 0;
  }
#pragma unroll
  for (int step = 0; step < kSteps; step++) {
    const int i = blockIdx.x * kSortChunk + step * kWarp + threadIdx.x, id = ids[step];
    const unsigned peers = __match_any_sync(kFullWarp, id);
    const int rank = __popc(peers & ((1u << threadIdx.x) - 1));
    if (id > 0) t.order[t.start[t.slot[id]] + before[id] + rank] = i;
    __syncwarp();
    if (id > 0 && rank == 0) before[id] += __popc(peers);
    __syncwarp();
  }
}

// A tile: up to 32 samples of one kept patch. Work is dealt out by tiles and not by patches, as one patch may hold a third of
// all samples.
struct LossTile {
  int anchor, begin, samples;
};

template <class T>
__device__ bool has_tile(const LossTask<T>& t) {
  const int k = *t.k;
  return k > 0 && (int)blockIdx.x < t.tile_start[k];
}

// The tile of this block, for has_tile().
template <class T>
__device__ LossTile find_tile(const LossTask<T>& t) {
  int low = 0, high = *t.k;  // the last patch whose first tile is not after this one
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    (t.tile_start[middle] <= (int)blockIdx.x ? low : high) = middle;
  }
  const int begin = t.start[low] + ((int)blockIdx.x - t.tile_start[low]) * kLossLanes;
  return {low, begin, min(kLossLanes, t.start[low + 1] - begin)};
}

// Grid: tiles_max. f^ and norms of the tile's samples, and the sum of its f^. Fixed order.
template <class T>
__global__ void __launch_bounds__(kLossThreads) normalise_tiles(LossTask<T> t) {
  if (!has_tile(t)) return;
  T* unit = reinterpret_cast<T*>(dynamic_shared());  // (32, d)
  const LossTile tile = find_tile(t);
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  for (int row = warp; row < tile.samples; row += kLossThreads / kWarp) {
    const T* feature = t.features + (int64_t)t.order[tile.begin + row] * t.d;
    T square = 0;
    for (int c = lane; c < t.d; c += kWarp) square += feature[c] * feature[c];
    const T norm = sqrt(warp_sum(square)) + T(1e-6);
    for (int c = lane; c < t.d; c += kWarp) {
      const T value = feature[c] / norm;
      unit[row * t.d + c] = value;
      t.unit[(int64_t)(tile.begin + row) * t.d + c] = value;
    }
    if (lane == 0) t.norm[tile.begin + row] = norm;
  }
  __syncthreads();
  for (int c = threadIdx.x; c < t.d; c += kLossThreads) {
    T sum = 0;
    for (int row = 0; row < tile.samples; row++) sum += unit[row * t.d + c];
    t.tile_sum[(int64_t)blockIdx.x * t.d + c] = sum;
  }
}

inline int64_t means_shared(int threads, int d, int64_t size) { return (int64_t)(d < threads ? threads / d : 1) * d * size; }

// Grid: k_max. Mean f^ of one patch: the sums of its tiles in a fixed order.
template <class T>
__global__ void patch_means(LossTask<T> t) {
  const int k = blockIdx.x;
  if (k >= *t.k) return;
  T* partial = reinterpret_cast<T*>(dynamic_shared());
  const int groups = t.d < (int)blockDim.x ? blockDim.x / t.d : 1, first = t.tile_start[k], last = t.tile_start[k + 1];
  for (int cell = threadIdx.x; cell < groups * t.d; cell += blockDim.x) {
    T sum = 0;
    for (int tile = first + cell / t.d; tile < last; tile += groups) sum += t.tile_sum[(int64_t)tile * t.d + cell % t.d];
    partial[cell] = sum;
  }
  __syncthreads();
  for (int c = threadIdx.x; c < t.d; c += blockDim.x) {
    T sum = 0;
    for (int g = 0; g < groups; g++) sum += partial[g * t.d + c];
    t.mean[(int64_t)k * t.d + c] = sum / (T)(t.start[k + 1] - t.start[k]);
  }
}

// Grid: tiles_max. Distances of the tile's samples to the patch's mean, added up.
template <class T>
__global__ void __launch_bounds__(kLossThreads) spread_tiles(LossTask<T> t) {
  if (!has_tile(t)) return;
  T* spreads = reinterpret_cast<T*>(dynamic_shared());  // one a warp
  const LossTile tile = find_tile(t);
  const T* mean = t.mean + (int64_t)tile.anchor * t.d;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  T spread = 0;
  for (int row = warp; row < tile.samples; row += kLossThreads / kWarp) {
    T square = 0;
    for (int c = lane; c < t.d; c += kWarp) {
      const T off = t.unit[(int64_t)(tile.begin + row) * t.d + c] - mean[c];
      square += off * off;
    }
    spread += sqrt(warp_sum(square));
  }
  if (lane == 0) spreads[warp] = spread;
  __syncthreads();
  if (threadIdx.x > 0) return;
  spread = 0;
  for (int w = 0; w < kLossThreads / kWarp; w++) spread += spreads[w];
  t.tile_spread[blockIdx.x] = spread;
}

// Concentration phi of a patch (eq. 4), by one warp; scales its mean for logits in base 2.
template <class T>
__device__ void finish_patch(const LossTask<T>& t, int k, int lane) {
  double phi = 0;
  for (int tile = t.tile_start[k] + lane; tile < t.tile_start[k + 1]; tile += kWarp) phi += t.tile_spread[tile];
  phi = warp_sum(phi);
  const int n = t.start[k + 1] - t.start[k];
  phi *= t.phi_scale / (n * log(n + 10.0));
  if (lane == 0 && !(phi - phi == 0)) atomicOr(t.poisoned, 1);
  phi = phi < t.phi_min ? t.phi_min : phi > t.phi_max ? t.phi_max : phi;
  if (lane == 0) t.phi[k] = (T)phi;
  const T scale = (T)(1.4426950408889634 / phi);
  for (int c = lane; c < t.d; c += kWarp) t.mean[(int64_t)k * t.d + c] *= scale;
}

// Votes between kept patches (eq. 1).
template <class T>
__device__ int votes_between(const LossTask<T>& t, int anchor, int other) {
  const int64_t a = t.id[anchor], b = t.id[other];
  if (t.votes) return t.votes[a * t.patches + b];
  int sum = 0;
  for (int w = 0; w < t.words; w++) sum += __popcll(t.membership[a * t.words + w] & t.membership[b * t.words + w]);
  return sum;
}

// Grid: k_max. The last of a patch's figures, then its levels, one at a time: the largest vote below the last one, then the
// patches that have it, in order. Votes are counted again for each level instead of being stored.
template <class T>
__global__ void level_tables(LossTask<T> t) {
  const int anchor = blockIdx.x, k = *t.k;
  if (anchor >= k) return;
  int* scratch = reinterpret_cast<int*>(dynamic_shared());
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, warps = blockDim.x / kWarp;
  uint16_t* related = t.related + (int64_t)anchor * t.k_max;
  uint16_t* ends = t.ends + (int64_t)anchor * t.k_max;
  if (warp == 0) finish_patch(t, anchor, lane);
  int last = INT32_MAX, placed = 0, level = 0;
  for (;; level++) {
    int best = 0;
    for (int s = threadIdx.x; s < k; s += blockDim.x) {
      const int votes = votes_between(t, anchor, s);
      if (votes < last && votes > best) best = votes;
    }
    best = warp_max(best);
    if (lane == 0) scratch[warp] = best;
    __syncthreads();
    for (int w = 0; w < warps; w++) best = scratch[w] > best ? scratch[w] : best;
    __syncthreads();
    if (best == 0 || (level > 0 && t.level_decay == 0)) break;
    for (int base = 0; base < k; base += blockDim.x) {
      const int s = base + threadIdx.x;
      const bool member = s < k && votes_between(t, anchor, s) == best;
      int count;
      const int before = block_exclusive_scan(member, scratch, count);
      if (member) related[placed + before] = (uint16_t)s;
      placed += count;
    }
    if (threadIdx.x == 0) ends[level] = (uint16_t)(placed - 1);  // of the last member: fits 16 bits
    last = best;
  }
  if (threadIdx.x == 0) t.n_levels[anchor] = level;
}

}  // namespace splatseg::cuda
