// The hierarchical contrastive loss and its gradient, one block for up to 64 samples that share an anchor patch.
// Mirrors splatseg/ops/reference/loss.py. Logits are kept in base 2: mean holds u log2(e) / phi.
//
// Nothing of size n x k is stored. Patches are treated 64 at a time, in the order of `related`: those of the anchor's levels
// first; their means are read once where all fit into shared memory, else with each chunk. A first pass, from the last chunk to the first, adds up the softmax's sum. A second, from the first chunk on (whose
// logits are still there), makes the logits again, walks the levels, and turns each logit into its gradient, which is then
// multiplied with the means (for the samples) and with the samples (for the means, added up across blocks).
#pragma once
#include "cuda/loss_products.cuh"

namespace splatseg::cuda {

__device__ inline float exp2_of(float x) { return exp2f(x); }
__device__ inline double exp2_of(double x) { return exp2(x); }
__device__ inline float log2_of(float x) { return log2f(x); }
__device__ inline double log2_of(double x) { return log2(x); }
__device__ inline float lowest(float) { return -1e30f; }
__device__ inline double lowest(double) { return -1e300; }

// Sum of 2^x, kept as sum * 2^top.
template <class T>
struct ExpSum {
  T top = lowest(T(0)), sum = 0;

  __device__ void add(const T (&x)[kLanePatches], int count) {
    T higher = top;
#pragma unroll
    for (int j = 0; j < kLanePatches; j++) higher = j < count && x[j] > higher ? x[j] : higher;
    sum *= exp2_of(top - higher);
#pragma unroll
    for (int j = 0; j < kLanePatches; j++) sum += j < count ? exp2_of(x[j] - higher) : T(0);
    top = higher;
  }
  // log2 of the sum over the eight lanes of a sample.
  __device__ T log() const {
    T higher = top, all = sum;
    for (int step = 1; step < 8; step *= 2) {
      const T other = __shfl_xor_sync(kFullWarp, higher, step), rest = __shfl_xor_sync(kFullWarp, all, step);
      const T both = other > higher ? other : higher;
      all = all * exp2_of(higher - both) + rest * exp2_of(other - both);
      higher = both;
    }
    return higher + log2_of(all);
  }
};

// What is known of a lane's samples while it walks the levels; its eight lanes agree, but for `total`. Patches are named by
// their position in `related`. Between chunks it lies in shared memory: registers are short while products are made.
template <class T>
struct Walk {
  T lse[kLaneSamples];      // log-sum-exp
  T weights[kLaneSamples];  // of all levels together; 0 for rows beyond the tile's samples
  T running[kLaneSamples];  // max over earlier levels
  T top[kLaneSamples];      // max over this level as well
  int carrier[kLaneSamples], top_at[kLaneSamples];  // the first patch that reached them
  T total = 0;  // loss of the terms that this lane took, base 2

  __device__ Walk(const LossShared<T>& s, int sample, int samples, T weight) {
#pragma unroll
    for (int i = 0; i < kLaneSamples; i++) {
      lse[i] = s.lse[sample + i];
      weights[i] = sample + i < samples ? weight : T(0);
      running[i] = s.running[sample + i];
      top[i] = s.top[sample + i];
      carrier[i] = s.carrier[sample + i];
      top_at[i] = s.top_at[sample + i];
    }
  }
  __device__ static void begin(const LossShared<T>& s, int sample, T lse) {
    s.lse[sample] = lse;
    s.running[sample] = s.top[sample] = lowest(T(0));
    s.carrier[sample] = s.top_at[sample] = 0;
  }
  __device__ void store(const LossShared<T>& s, int sample) const {
#pragma unroll
    for (int i = 0; i < kLaneSamples; i++) {
      s.running[sample + i] = running[i];
      s.top[sample + i] = top[i];
      s.carrier[sample + i] = carrier[i];
      s.top_at[sample + i] = top_at[i];
    }
  }
};

// A part of a level: patches of positions begin .. end with the weight of each.
template <class T>
struct LevelPart {
  int begin, end;
  T weight;
};

template <class T, int W, class Sum>
struct TileLoss : TileProducts<T, W, Sum> {
  using Tile = T[kLaneSamples][kLanePatches];
  using TileProducts<T, W, Sum>::TileProducts;
  using TileProducts<T, W, Sum>::t;
  using TileProducts<T, W, Sum>::tile;
  using TileProducts<T, W, Sum>::lane;

  // Turns logits of the part into their gradient.
  __device__ void walk_part(int first, const LevelPart<T>& part, Walk<T>& walk, Tile& logits) const {
    const int lane_first = first + this->first_position();
    T best[kLaneSamples];
    int best_at[kLaneSamples], held = 0;
#pragma unroll
    for (int i = 0; i < kLaneSamples; i++) {
      best[i] = lowest(T(0));
      best_at[i] = 0;
      const T weight = walk.weights[i] > 0 ? part.weight : T(0);
#pragma unroll
      for (int j = 0; j < kLanePatches; j++) {
        if ((unsigned)(lane_first + j - part.begin) >= (unsigned)(part.end - part.begin)) continue;
        const T nll = walk.lse[i] - logits[i][j];
        const bool own = nll >= walk.running[i];
        walk.total += weight * (own ? nll : walk.running[i]);
        held += own ? 0 : 1 << 16 * i;
        logits[i][j] = walk.weights[i] * exp2_of(-nll) - (own ? weight : T(0));
        if (nll > best[i]) {
          best[i] = nll;
          best_at[i] = lane_first + j;
        }
      }
    }
    raise_top(best, best_at, walk);
    for (int step = 1; step < 8; step *= 2) held += __shfl_xor_sync(kFullWarp, held, step);
    carry(first, part.weight, held, walk, logits);
  }
  // The eight lanes' maxima join: the first position among equals.
  __device__ void raise_top(const T (&best)[kLaneSamples], const int (&best_at)[kLaneSamples], Walk<T>& walk) const {
#pragma unroll
    for (int i = 0; i < kLaneSamples; i++) {
      T highest = best[i];
      for (int step = 1; step < 8; step *= 2) {
        const T other = __shfl_xor_sync(kFullWarp, highest, step);
        highest = other > highest ? other : highest;
      }
      const unsigned holders = __ballot_sync(kFullWarp, best[i] == highest) >> (lane & ~7) & 0xff;
      const int at = __shfl_sync(kFullWarp, best_at[i], (lane & ~7) + (holders ? __ffs((int)holders) - 1 : 0));
      if (!(highest > walk.top[i])) continue;
      walk.top[i] = highest;
      walk.top_at[i] = at;
    }
  }
  // The gradient of terms that the running max overrode, `held` of each sample, goes to its patch.
  __device__ void carry(int first, T weight, int held, const Walk<T>& walk, Tile& grad) const {
    T outside[kLaneSamples];
    int patch[kLaneSamples];
    bool any = false;
#pragma unroll
    for (int i = 0; i < kLaneSamples; i++) {
      const T carried = walk.weights[i] > 0 ? -weight * (T)(held >> 16 * i & 0xffff) : T(0);
#pragma unroll
      for (int j = 0; j < kLanePatches; j++) {
        if (walk.carrier[i] == first + this->first_position() + j) grad[i][j] += carried;
      }
      outside[i] = walk.carrier[i] < first ? carried : T(0);
      patch[i] = walk.carrier[i] < first ? t.related(tile.anchor)[walk.carrier[i]] : 0;
      any |= outside[i] != 0;
    }
    if (t.with_grad && __any_sync(kFullWarp, any)) this->spread_outside(outside, patch);
  }
  // Patches without a level have the softmax's gradient alone; positions beyond the last patch none.
  __device__ void finish_chunk(int first, int related_end, const Walk<T>& walk, Tile& logits) const {
    const int k = t.counts().kept, lane_first = first + this->first_position();
#pragma unroll
    for (int i = 0; i < kLaneSamples; i++) {
#pragma unroll
      for (int j = 0; j < kLanePatches; j++) {
        if (lane_first + j >= k) {
          logits[i][j] = 0;
        } else if (lane_first + j >= related_end) {
          logits[i][j] = walk.weights[i] * exp2_of(logits[i][j] - walk.lse[i]);
        }
      }
    }
  }
};

// The levels of one anchor, walked in chunks.
template <class T>
struct Levels {
  const uint16_t* ends;
  int count = 0;  // those whose weight is not 0
  int end = 0;    // of the last one
  T sum = 0;      // of their weights
  int level = 0, begin = 0;
  T decay = 1;    // weight of the one that begins next

  __device__ Levels(const LossTask<T>& t, int anchor) : ends(t.ends(anchor)) {
    const T ratio = (T)t.level_decay;
    for (T weight = 1; count < t.n_levels()[anchor] && weight > 0; count++, weight *= ratio) sum += weight;
    end = count > 0 ? ends[count - 1] + 1 : 0;
  }
};

// Turns a chunk's logits into their gradient. Whole warps only.
template <class T, int W, class Sum>
__device__ void walk_chunk(const TileLoss<T, W, Sum>& block, int first, Levels<T>& levels,
                           T (&logits)[kLaneSamples][kLanePatches]) {
  Walk<T> walk(block.s, block.first_sample(), block.tile.samples, levels.sum);
  const int last = first + kLossRows;
  while (levels.level < levels.count && levels.begin < last) {
    const int end = levels.ends[levels.level] + 1;
    const T weight = levels.decay / (T)(end - levels.begin);
    block.walk_part(first, {max(levels.begin, first), min(end, last), weight}, walk, logits);
    if (end > last) break;  // it goes on in the next chunk
#pragma unroll
    for (int i = 0; i < kLaneSamples; i++) {
      walk.running[i] = walk.top[i];
      walk.carrier[i] = walk.top_at[i];
    }
    levels.level++;
    levels.begin = end;
    levels.decay *= (T)block.t.level_decay;
  }
  block.finish_chunk(first, levels.end, walk, logits);
  const T total = warp_sum(walk.total);  // all lanes have read what store() overwrites
  if (block.lane == 0) block.s.total[block.warp] += total;
  if (block.lane % 8 == 0) walk.store(block.s, block.first_sample());
}

// Says what the loss is. In a replayed step its number and batch stay for the kernels that follow, while the next step is on.
template <class T>
__device__ void tell_loss(const LossTask<T>& t, T loss) {
  if (!t.pool.cells) {
    *t.loss = loss;
    return;
  }
  const int64_t step = t.pool.cells[1];
  t.pool.losses[step] = loss;
  t.pool.cells[0] = step + 1;
}

// Sums the tiles in a fixed order. One block.
template <class T>
__device__ void sum_loss(const LossTask<T>& t, int tiles, double* partial) {
  double sum = 0;
  for (int i = threadIdx.x; i < tiles; i += kLossThreads) sum += fresh(t.tile_loss + i);
  sum = warp_sum(sum);
  if (threadIdx.x % kWarp == 0) partial[threadIdx.x / kWarp] = sum;
  __syncthreads();
  if (threadIdx.x > 0) return;
  sum = 0;
  for (int w = 0; w < kLossWarps; w++) sum += partial[w];
  tell_loss(t, *t.poisoned ? (T)NAN : (T)(sum * 0.6931471805599453 * t.weight));
}

// The tile's loss, a part a warp in shared memory; its gradient goes to unit_grad and mean_grad.
template <class T, int W, class Sum>
__device__ void treat_tile(const LossTask<T>& t) {
  const TileLoss<T, W, Sum> block(t);
  const int k = t.counts().kept;
  block.load_all();
  T logits[kLaneSamples][kLanePatches];
  ExpSum<T> sums[kLaneSamples];
  for (int first = (k - 1) / kLossRows * kLossRows; first >= 0; first -= kLossRows) {
    block.logits(first, logits);
#pragma unroll
    for (int i = 0; i < kLaneSamples; i++) sums[i].add(logits[i], k - first - block.first_position());
  }
#pragma unroll
  for (int i = 0; i < kLaneSamples; i++) {
    const T lse = sums[i].log();
    if (block.lane % 8 == 0) Walk<T>::begin(block.s, block.first_sample() + i, lse);
  }
  if (block.lane == 0) block.s.total[block.warp] = 0;
  __syncwarp();
  Levels<T> levels(t, block.tile.anchor);
  const bool real = block.warp * kWarpSamples < block.tile.samples;
  for (int first = 0; first < (t.with_grad ? k : levels.end); first += kLossRows) {
    if (first > 0) {
      if (block.holds_all()) __syncthreads();  // the last chunk's gradient is spread
      block.logits(first, logits);
    }
    if (real) walk_chunk(block, first, levels, logits);
    if (!t.with_grad) continue;
    if (real) block.store(logits);
    block.spread(first);
  }
}

// Grid: tiles_max. The last block sums the loss.
template <class T, int W, class Sum>
__global__ void __launch_bounds__(kLossThreads, sizeof(T) == 4 ? 3 : 1) loss_tiles(LossTask<T> t) {
  if (!t.current()) return;
  const int tiles = t.counts().tiles;
  if ((int)blockIdx.x >= tiles) {
    if (tiles == 0 && blockIdx.x == 0 && threadIdx.x == 0) tell_loss(t, T(0));
    return;
  }
  treat_tile<T, W, Sum>(t);
  __syncthreads();
  if (threadIdx.x == 0) {
    double sum = 0;
    for (int w = 0; w < kLossWarps; w++) sum += LossShared<T>().total[w];
    t.tile_loss[blockIdx.x] = sum;
  }
  if (is_last_block(t.arrived + 1, tiles)) sum_loss(t, tiles, reinterpret_cast<double*>(dynamic_shared()));
}

// Rows of one chunk that are not kept have no gradient. A warp looks at 32 of them at once.
template <class T>
__device__ void clear_rows(const LossTask<T>& t, int chunk) {
  const int lane = threadIdx.x % kWarp, last = min(t.n, (chunk + 1) * kSortChunk);
  for (int first = chunk * kSortChunk + threadIdx.x / kWarp * kWarp; first < last; first += kLossThreads) {
    const int id = first + lane < last ? t.patch[first + lane] : 0;
    const bool kept = id > 0 && id < t.patches && t.slot[id] >= 0;
    for (unsigned left = __ballot_sync(kFullWarp, first + lane < last && !kept); left; left &= left - 1) {
      T* row = t.grad + (int64_t)(first + __ffs((int)left) - 1) * t.d;
      for (int c = lane; c < t.d; c += kWarp) row[c] = 0;
    }
  }
}

// The same where samples are sorted: those behind the kept ones.
template <class T>
__device__ void clear_rest(const LossTask<T>& t, int chunk) {
  const LossCounts counts = t.counts();
  const int64_t last = (int64_t)min(counts.all, (chunk + 1) * kSortChunk) * t.d;
  const int64_t first = (int64_t)max(counts.sorted, chunk * kSortChunk) * t.d;
  for (int64_t cell = first + threadIdx.x; cell < last; cell += kLossThreads) t.grad[cell] = 0;
}

// Grid: tiles_max + chunks. The means' gradient joins each sample's own; through the detached norm, to the input's order.
template <class T, class Sum>
__global__ void __launch_bounds__(kLossThreads) scatter_gradient(LossTask<T> t) {
  if (!t.current()) return;
  if ((int)blockIdx.x >= t.tiles_max) {
    const int chunk = blockIdx.x - t.tiles_max;
    return t.sorted ? clear_rest(t, chunk) : clear_rows(t, chunk);
  }
  if (!has_tile(t)) return;
  const LossTile tile = t.tiles()[blockIdx.x];
  const auto* mean_grad = static_cast<const typename Sum::Cell*>(t.mean_grad) + (int64_t)tile.anchor * t.d;
  const T own = (T)(0.6931471805599453 * t.weight);
  const T through_mean = (T)(t.weight / ((double)t.phi[tile.anchor] * tile.of_patch));
  const bool poisoned = *t.poisoned;
#pragma unroll 4
  for (int cell = threadIdx.x; cell < tile.samples * t.d; cell += kLossThreads) {
    const int64_t i = tile.begin + cell / t.d, c = cell % t.d;
    const T grad = (t.unit_grad[i * t.d + c] * own + Sum::value(mean_grad[c]) * through_mean) / t.norm[i];
    const int64_t row = t.sorted ? i : t.order[i];
    t.grad[row * t.d + c] = poisoned ? (T)NAN : grad;
  }
}

template <class T, class Sum>
void launch_tiles(const LossTask<T>& t, const Stream& stream) {
  auto task = t;
  task.held = LossShared<T>::rows(t.k_max, t.d);
  const int64_t shared = LossShared<T>::bytes(task.held);
  const auto launch = [&](auto* kernel) { stream.launch(kernel, t.tiles_max, kLossThreads, shared, task); };
  switch (t.d) {
    case 4: return launch(loss_tiles<T, 4, Sum>);
    case 8: return launch(loss_tiles<T, 8, Sum>);
    case 16: return launch(loss_tiles<T, 16, Sum>);
    case 24: return launch(loss_tiles<T, 24, Sum>);
    default: return t.d % kSlice ? launch(loss_tiles<T, 0, Sum>) : launch(loss_tiles<T, kSlice, Sum>);
  }
}

// What depends on patches and masks alone: the tables, and the order of samples that are not sorted.
template <class T>
void launch_tables(const LossTask<T>& t, int64_t cleared, const Stream& stream) {
  stream.clear(t.histogram, cleared);
  stream.launch(count_samples<T>, t.chunks, kSortChunk, (kSortChunk / kWarp + 1) * sizeof(int), t);
  const int64_t blocks = (t.sorted ? 0 : t.chunks) + t.k_max;
  if (blocks > 0) stream.launch(arrange<T>, blocks, kArrangeThreads, arrange_shared(t), t);
}

// From f^ and the sums of its parts on.
template <class T, int Parts, class Sum>
void launch_contrast(const LossTask<T>& t, const Stream& stream) {
  stream.launch(spread_tiles<T, Parts>, t.tiles_max, kLossThreads, spread_shared<T>(t.d), t);
  launch_tiles<T, Sum>(t, stream);
  if (t.with_grad) stream.launch(scatter_gradient<T, Sum>, t.tiles_max + t.chunks, kLossThreads, 0, t);
}

// The whole op on one stream, for k_max > 0. The grid's sizes are bounds, so the host never waits for the device.
template <class T, class Sum>
void launch_loss(const LossTask<T>& t, int64_t cleared, const Stream& stream) {
  launch_tables(t, cleared, stream);
  stream.launch(normalize_tiles<T>, t.tiles_max, kLossThreads, means_shared<T>(t.d), t);
  launch_contrast<T, 1, Sum>(t, stream);
}

#ifdef SPLATSEG_INSTANTIATE  // for compile_check.py
template void launch_loss<float, FastSum<float>>(const LossTask<float>&, int64_t, const Stream&);
template void launch_loss<float, ExactSum<float>>(const LossTask<float>&, int64_t, const Stream&);
template void launch_loss<double, FastSum<double>>(const LossTask<double>&, int64_t, const Stream&);
template void launch_loss<double, ExactSum<double>>(const LossTask<double>&, int64_t, const Stream&);
#endif

}  // namespace splatseg::cuda
