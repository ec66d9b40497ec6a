// Before the loss proper: samples sorted by patch, level tables, patch means and concentrations. No host synchronization:
// blocks beyond the number of kept patches, which only the device knows, return. What needs all blocks of a kernel, or all
// of a patch, is done by the one that is through last, so that it needs no kernel of its own.
#pragma once
#include "cuda/loss_task.cuh"

namespace splatseg::cuda {

// Whether this block is the last of `blocks` to come here. Then it sees what the others wrote before, if it reads with
// fresh(). Every thread must call, once a kernel.
__device__ inline bool is_last_block(int* arrived, int blocks) {
  __threadfence();
  __syncthreads();
  const bool last = __syncthreads_or(threadIdx.x == 0 && atomicAdd(arrived, 1) == blocks - 1);
  __threadfence();
  return last;
}

// Not from this multiprocessor's own cache.
template <class T>
__device__ T fresh(const T* at) {
  return *const_cast<const volatile T*>(at);
}

// The tiles of one patch whose samples begin at `start`, from number `first` on.
template <class T>
__device__ void deal_tiles(const LossTask<T>& t, int anchor, int start, int count, int first) {
  const int tiles = (count + kLossSamples - 1) / kLossSamples;
  for (int k = 0; k < tiles; k++) {
    const int before = k * kLossSamples;
    t.tiles()[first + k] = {anchor, start + before, min(kLossSamples, count - before), first, tiles, count, {}};
  }
}

// Numbers the patches with enough samples, in order of id, and lays out their samples and tiles. One block.
template <class T>
__device__ void select_patches(const LossTask<T>& t, int* scratch) {
  int patches_before = 0, samples_before = 0, tiles_before = 0;
  for (int base = 0; base < t.patches; base += blockDim.x) {
    const int id = base + threadIdx.x;
    int count = 0;
    constexpr int kAhead = 16;  // cells read before the first is written
    for (int chunk = 0; id < t.patches && chunk < t.chunks; chunk += kAhead) {
      int own[kAhead];
#pragma unroll
      for (int a = 0; a < kAhead; a++) {
        own[a] = chunk + a < t.chunks ? fresh(t.histogram + (int64_t)(chunk + a) * t.patches + id) : 0;
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
    const int own_tiles = kept ? (count + kLossSamples - 1) / kLossSamples : 0;
    const int tile = tiles_before + block_exclusive_scan(own_tiles, scratch, tiles);
    if (id < t.patches) t.slot[id] = kept ? number : -1;
    if (kept) {
      t.id()[number] = id;
      t.start()[number] = start;
      deal_tiles(t, number, start, count, tile);
    }
    patches_before += patches;
    samples_before += samples;
    tiles_before += tiles;
  }
  if (threadIdx.x == 0) {
    t.counts() = {patches_before, tiles_before, samples_before, t.n};
    t.start()[patches_before] = samples_before;
  }
}

// Grid: chunks. Counts each chunk's samples by patch; integers, so the order of additions does not matter.
template <class T>
__global__ void __launch_bounds__(kSortChunk) count_samples(LossTask<T> t) {
  if (!t.upcoming()) return;
  const int i = blockIdx.x * kSortChunk + threadIdx.x;
  const int id = i < t.n ? t.patch[i] : 0;
  if (id > 0 && id < t.patches) atomicAdd(t.histogram + (int64_t)blockIdx.x * t.patches + id, 1);
  if (is_last_block(t.arrived, t.chunks)) select_patches(t, reinterpret_cast<int*>(dynamic_shared()));
}

// Sorts one chunk by patch, by its first warp. Stable: samples of a patch keep their order, so that sums over them have a
// fixed order. `held` has a cell a patch for up to kHeld patches.
template <class T>
__device__ void place_samples(const LossTask<T>& t, int chunk, int* held) {
  int* counts = t.histogram + (int64_t)chunk * t.patches;
  int* next = t.patches <= kHeld ? held : counts;  // where the next sample of each patch goes
  for (int id = threadIdx.x; id < t.patches; id += blockDim.x) {
    const int slot = t.slot[id];
    next[id] = slot < 0 ? -1 : t.start()[slot] + counts[id];
  }
  __syncthreads();
  if (threadIdx.x >= kWarp) return;
  constexpr int kSteps = kSortChunk / kWarp;
  int ids[kSteps];  // all read ahead of the first store, so that their latencies overlap
#pragma unroll
  for (int step = 0; step < kSteps; step++) {
    const int i = chunk * kSortChunk + step * kWarp + threadIdx.x;
    ids[step] = i < t.n ? t.patch[i] : 0;
  }
#pragma unroll
  for (int step = 0; step < kSteps; step++) {
    const int id = ids[step] > 0 && ids[step] < t.patches ? ids[step] : 0;
    const unsigned peers = __match_any_sync(kFullWarp, id);
    const int rank = __popc(peers & ((1u << threadIdx.x) - 1)), first = id > 0 ? next[id] : -1;
    if (first >= 0) t.order[first + rank] = chunk * kSortChunk + step * kWarp + threadIdx.x;
    __syncwarp();
    if (first >= 0 && rank == 0) next[id] = first + __popc(peers);
    __syncwarp();
  }
}

// Votes between kept patches (eq. 1).
template <class T>
__device__ int votes_between(const LossTask<T>& t, int anchor, int other) {
  const int64_t a = t.id()[anchor], b = t.id()[other];
  if (t.votes) return t.votes[a * t.patches + b];
  int sum = 0;
  for (int w = 0; w < t.words; w++) sum += __popcll(t.membership[a * t.words + w] & t.membership[b * t.words + w]);
  return sum;
}

// Levels of one anchor, one at a time: the largest vote below the last one, then the patches that have it, in order; in the
// end, those without a level. Votes with the first kHeld patches are held, with others counted again. `scratch` has an entry
// a warp, plus one.
template <class T>
__device__ void find_levels(const LossTask<T>& t, int anchor, int* scratch, int* held) {
  const int k = t.counts().kept, lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, warps = blockDim.x / kWarp;
  uint16_t *related = t.related(anchor), *ends = t.ends(anchor);
  for (int s = threadIdx.x; s < min(k, kHeld); s += blockDim.x) held[s] = votes_between(t, anchor, s);
  __syncthreads();
  const auto votes = [&](int s) { return s < kHeld ? held[s] : votes_between(t, anchor, s); };
  int placed = 0;
  const auto place = [&](auto&& belongs) {
    for (int base = 0; base < k; base += blockDim.x) {
      const int s = base + threadIdx.x;
      const bool member = s < k && belongs(votes(s));
      int count;
      const int before = block_exclusive_scan(member, scratch, count);
      if (member) related[placed + before] = (uint16_t)s;
      placed += count;
    }
  };
  int last = INT32_MAX, level = 0;
  for (; level == 0 || t.level_decay > 0; level++) {
    int best = 0;
    for (int s = threadIdx.x; s < k; s += blockDim.x) {
      const int own = votes(s);
      if (own < last && own > best) best = own;
    }
    best = warp_max(best);
    if (lane == 0) scratch[warp] = best;
    __syncthreads();
    for (int w = 0; w < warps; w++) best = scratch[w] > best ? scratch[w] : best;
    __syncthreads();
    if (best == 0) break;
    place([best](int own) { return own == best; });
    if (threadIdx.x == 0) ends[level] = (uint16_t)(placed - 1);  // of the last member: fits 16 bits
    last = best;
  }
  place([last](int own) { return own < last; });
  if (threadIdx.x == 0) t.n_levels()[anchor] = level;
}

constexpr int kArrangeThreads = 256, kScratch = kArrangeThreads / kWarp + 1;

template <class T>
int64_t arrange_shared(const LossTask<T>& t) {
  return (kScratch + min(kHeld, max(t.k_max, t.patches))) * (int64_t)sizeof(int);
}

// Grid: chunks + k_max, where samples are sorted k_max. The order of the samples, and beside it each anchor's levels.
template <class T>
__global__ void __launch_bounds__(kArrangeThreads) arrange(LossTask<T> t) {
  if (!t.upcoming()) return;
  int* scratch = reinterpret_cast<int*>(dynamic_shared());
  const int anchor = (int)blockIdx.x - (t.sorted ? 0 : t.chunks);
  if (anchor < 0) {
    place_samples(t, blockIdx.x, scratch + kScratch);
  } else if (anchor < t.counts().kept) {
    find_levels(t, anchor, scratch, scratch + kScratch);
  }
}

template <class T>
__device__ bool has_tile(const LossTask<T>& t) {
  return (int)blockIdx.x < t.counts().tiles;
}

constexpr int kLossWarps = kLossThreads / kWarp, kWarpSamples = kLossSamples / kLossWarps;

template <class T>
int64_t means_shared(int d) {
  return (d < kLossThreads ? max(kLossWarps, kLossThreads / d + 1) : kLossWarps) * (int64_t)d * sizeof(T);
}

// Mean f^ of the patch of a tile, from the sums of `parts` parts a tile in a fixed order, into the first d cells of `shared`.
template <class T>
__device__ void average_parts(const LossTask<T>& t, const LossTile& tile, int parts, T* shared) {
  const int groups = t.d < kLossThreads ? kLossThreads / t.d : 1, of_part = kLossSamples / parts;
  const int count = (tile.of_patch + of_part - 1) / of_part;  // all tiles of a patch but the last are full
  const T* sums = t.part_sum + (int64_t)tile.first * parts * t.d;
  T* partial = groups > 1 ? shared + t.d : shared;
  for (int cell = threadIdx.x; cell < groups * t.d; cell += kLossThreads) {
    T sum = 0;
#pragma unroll 8
    for (int part = cell / t.d; part < count; part += groups) sum += sums[(int64_t)part * t.d + cell % t.d];
    partial[cell] = sum;
  }
  __syncthreads();
  for (int c = threadIdx.x; c < t.d; c += kLossThreads) {
    T sum = 0;
    for (int g = 0; g < groups; g++) sum += partial[g * t.d + c];
    shared[c] = sum / (T)tile.of_patch;
  }
  __syncthreads();
}

// Grid: tiles_max. f^ and norms of the tile's samples, eight a warp, and the sum of its f^ in a fixed order.
template <class T>
__global__ void __launch_bounds__(kLossThreads) normalize_tiles(LossTask<T> t) {
  if (!has_tile(t)) return;
  T* partial = reinterpret_cast<T*>(dynamic_shared());
  const LossTile tile = t.tiles()[blockIdx.x];
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, d = t.d;
  const int samples = max(0, min(kWarpSamples, tile.samples - warp * kWarpSamples));
  const int64_t first = tile.begin + warp * kWarpSamples;
  const T* feature[kWarpSamples];
  T norm[kWarpSamples];
#pragma unroll
  for (int i = 0; i < kWarpSamples; i++) {
    feature[i] = t.features + (i < samples ? (int64_t)t.order[first + i] : 0) * d;
    norm[i] = 0;
  }
  for (int c = lane; c < d; c += kWarp) {
#pragma unroll
    for (int i = 0; i < kWarpSamples; i++) norm[i] += feature[i][c] * feature[i][c];
  }
#pragma unroll
  for (int i = 0; i < kWarpSamples; i++) {
    norm[i] = sqrt(warp_sum(norm[i])) + T(1e-6);
    if (lane == 0 && i < samples) t.norm[first + i] = norm[i];
  }
  for (int c = lane; c < d; c += kWarp) {
    T sum = 0;
#pragma unroll
    for (int i = 0; i < kWarpSamples; i++) {
      const T value = feature[i][c] / norm[i];
      if (i < samples) {
        t.unit[(first + i) * d + c] = value;
        sum += value;
      }
    }
    partial[warp * d + c] = sum;
  }
  __syncthreads();
  for (int c = threadIdx.x; c < d; c += kLossThreads) {
    T sum = 0;
    for (int w = 0; w < kLossWarps; w++) sum += partial[w * d + c];
    t.part_sum[(int64_t)blockIdx.x * d + c] = sum;
  }
}

// Concentration phi of a tile's patch (eq. 4), by one warp; its mean, scaled for logits in base 2.
template <class T>
__device__ void finish_patch(const LossTask<T>& t, const LossTile& tile, const T* mean) {
  const int lane = threadIdx.x % kWarp;
  double phi = 0;
  for (int other = lane; other < tile.tiles; other += kWarp) phi += fresh(t.tile_spread + tile.first + other);
  phi = warp_sum(phi);
  phi *= t.phi_scale / (tile.of_patch * log(tile.of_patch + 10.0));
  if (lane == 0 && !(phi - phi == 0)) atomicOr(t.poisoned, 1);
  phi = phi < t.phi_min ? t.phi_min : phi > t.phi_max ? t.phi_max : phi;
  if (lane == 0) t.phi[tile.anchor] = (T)phi;
  const T scale = (T)(1.4426950408889634 / phi);
  for (int c = lane; c < t.d; c += kWarp) t.mean[(int64_t)tile.anchor * t.d + c] = mean[c] * scale;
}

// Shared memory of spread_tiles: a value a warp, then the mean's.
template <class T>
int64_t spread_shared(int d) {
  return kLossWarps * (int64_t)sizeof(T) + means_shared<T>(d);
}

// Grid: tiles_max. Distances of the tile's samples to the patch's mean, added up; then what else a patch needs.
template <class T, int Parts>
__global__ void __launch_bounds__(kLossThreads) spread_tiles(LossTask<T> t) {
  if (!t.current() || !has_tile(t)) return;
  T* spreads = reinterpret_cast<T*>(dynamic_shared());  // one a warp
  T* mean = spreads + kLossWarps;
  const LossTile tile = t.tiles()[blockIdx.x];
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int samples = max(0, min(kWarpSamples, tile.samples - warp * kWarpSamples));
  const T* unit = t.unit + (int64_t)(tile.begin + (samples > 0 ? warp * kWarpSamples : 0)) * t.d;
  average_parts(t, tile, Parts, mean);
  T square[kWarpSamples] = {};
  for (int c = lane; c < t.d; c += kWarp) {
    const T center = mean[c];
#pragma unroll
    for (int i = 0; i < kWarpSamples; i++) {
      const T off = i < samples ? unit[(int64_t)i * t.d + c] - center : T(0);
      square[i] += off * off;
    }
  }
  T spread = 0;
#pragma unroll
  for (int i = 0; i < kWarpSamples; i++) spread += sqrt(warp_sum(square[i]));
  if (lane == 0) spreads[warp] = spread;
  __syncthreads();
  if (threadIdx.x == 0) {
    spread = 0;
    for (int w = 0; w < kLossWarps; w++) spread += spreads[w];
    t.tile_spread[blockIdx.x] = spread;
  }
  if (is_last_block(t.arrived + 2 + tile.anchor, tile.tiles) && warp == 0) finish_patch(t, tile, mean);
}

}  // namespace splatseg::cuda
