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
__global__ void select_patches(LossTask<T> t) {
  int* scratch = reinterpret_cast<int*>(dynamic_shared());
  int patches_before = 0, samples_before = 0, tiles_before = 0;
  for (int base = 0; base < t.patches; base += blockDim.x) {
    const int id = base + threadIdx.x;
    int count = 0;
    for (int chunk = 0; id < t.patches && chunk < t.chunks; chunk++) {
      int* cell = t.histogram + (int64_t)chunk * t.patches + id;
      const int own = *cell;
      *cell = count;
      count += own;
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
  for (int step = 0; step < kSortChunk; step += kWarp) {
    const int i = blockIdx.x * kSortChunk + step + threadIdx.x;
    int id = i < t.n ? t.patch[i] : 0;
    if (id <= 0 || id >= t.patches || t.slot[id] < 0) id = 0;
    const unsigned peers = __match_any_sync(kFullWarp, id);
    const int rank = __popc(peers & ((1u << threadIdx.x) - 1));
    if (id > 0) t.order[t.start[t.slot[id]] + before[id] + rank] = i;
    __syncwarp();
    if (id > 0 && rank == 0) before[id] += __popc(peers);
    __syncwarp();
  }
}

inline int64_t statistics_shared(int threads, int d, int64_t size) {
  const int groups = d < threads ? threads / d : 1;
  return ((int64_t)groups * d + d + threads / kWarp) * size;
}

// Sums over the patch's samples of unit[., c], for all c: `partial` has room for groups x d. Fixed order.
template <class T>
__device__ void patch_mean(const LossTask<T>& t, int begin, int end, T* partial, T* mean) {
  const int groups = t.d < (int)blockDim.x ? blockDim.x / t.d : 1;
  for (int cell = threadIdx.x; cell < groups * t.d; cell += blockDim.x) {
    T sum = 0;
    for (int i = begin + cell / t.d; i < end; i += groups) sum += t.unit[(int64_t)i * t.d + cell % t.d];
    partial[cell] = sum;
  }
  __syncthreads();
  for (int c = threadIdx.x; c < t.d; c += blockDim.x) {
    T sum = 0;
    for (int g = 0; g < groups; g++) sum += partial[g * t.d + c];
    mean[c] = sum / (T)(end - begin);
  }
  __syncthreads();
}

// Grid: k_max. f^, norms, mean and phi of one patch (eq. 4).
template <class T>
__global__ void patch_statistics(LossTask<T> t) {
  const int k = blockIdx.x;
  if (k >= *t.k) return;
  T* mean = reinterpret_cast<T*>(dynamic_shared());
  T* spreads = mean + t.d;
  T* partial = spreads + blockDim.x / kWarp;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, warps = blockDim.x / kWarp;
  const int begin = t.start[k], end = t.start[k + 1];
  for (int i = begin + warp; i < end; i += warps) {
    const T* feature = t.features + (int64_t)t.order[i] * t.d;
    T square = 0;
    for (int c = lane; c < t.d; c += kWarp) square += feature[c] * feature[c];
    const T norm = sqrt(warp_sum(square)) + T(1e-6);
    for (int c = lane; c < t.d; c += kWarp) t.unit[(int64_t)i * t.d + c] = feature[c] / norm;
    if (lane == 0) t.norm[i] = norm;
  }
  __syncthreads();
  patch_mean(t, begin, end, partial, mean);
  T spread = 0;
  for (int i = begin + warp; i < end; i += warps) {
    T square = 0;
    for (int c = lane; c < t.d; c += kWarp) {
      const T off = t.unit[(int64_t)i * t.d + c] - mean[c];
      square += off * off;
    }
    spread += sqrt(warp_sum(square));
  }
  if (lane == 0) spreads[warp] = spread;
  __syncthreads();
  double phi = 0;
  for (int w = 0; w < warps; w++) phi += spreads[w];
  const int n = end - begin;
  phi *= t.phi_scale / (n * log(n + 10.0));
  if (threadIdx.x == 0 && !(phi - phi == 0)) atomicOr(t.poisoned, 1);
  phi = phi < t.phi_min ? t.phi_min : phi > t.phi_max ? t.phi_max : phi;
  if (threadIdx.x == 0) t.phi[k] = (T)phi;
  for (int c = threadIdx.x; c < t.d; c += blockDim.x) t.mean[(int64_t)k * t.d + c] = mean[c] * (T)(1.4426950408889634 / phi);
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

// Grid: k_max. One level at a time: the largest vote below the last one, then the patches that have it, in order. Votes
// are counted again for each level instead of being stored.
template <class T>
__global__ void level_tables(LossTask<T> t) {
  const int anchor = blockIdx.x, k = *t.k;
  if (anchor >= k) return;
  int* scratch = reinterpret_cast<int*>(dynamic_shared());
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, warps = blockDim.x / kWarp;
  uint16_t* related = t.related + (int64_t)anchor * t.k_max;
  uint16_t* ends = t.ends + (int64_t)anchor * t.k_max;
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
