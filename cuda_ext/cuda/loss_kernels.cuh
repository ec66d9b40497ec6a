// The hierarchical contrastive loss and its gradient, one block for 32 samples that share an anchor patch.
// Mirrors splatseg/ops/reference/loss.py. Logits are kept in base 2: mean holds u log2(e) / phi.
//
// Nothing of size n x k is stored: logits are computed for the softmax's sum, again for the levels (related patches only)
// and again for its gradient. A warp holds one sample a lane and takes every eighth patch, so a mean's row is read once
// for 32 samples. The gradient of the logits of 64 patches at a time lies in shared memory, whence it is multiplied with
// the means (for the samples) and with the samples (for the means, added up across blocks).
#pragma once
#include "cuda/loss_prepare.cuh"

namespace splatseg::cuda {

constexpr int kLossWarps = kLossThreads / kWarp;

// Shared memory of one block. Samples' rows are padded by one against bank conflicts.
template <class T>
struct LossShared {
  T* unit;          // (32, d + 1) f^
  T* unit_grad;     // (32, d + 1)
  T* logit_grad;    // (64, 33) [patch][sample]
  T* top;           // (8, 32) a value a warp and sample
  T* sum;           // (8, 32)
  T* carried;       // (32,) gradient that falls to the running max
  int* top_patch;   // (8, 32)
  int* carrier;     // (32,) patch that holds the running max
  int* rows;        // (64,) patches of logit_grad

  static __host__ __device__ int64_t bytes(int d) {
    return (2 * kLossLanes * (d + 1) + kLossRows * (kLossLanes + 1) + (2 * kLossWarps + 1) * kLossLanes) * sizeof(T) +
           (kLossWarps * kLossLanes + kLossLanes + kLossRows) * sizeof(int);
  }
  __device__ explicit LossShared(int d) {
    unit = reinterpret_cast<T*>(dynamic_shared());
    unit_grad = unit + kLossLanes * (d + 1);
    logit_grad = unit_grad + kLossLanes * (d + 1);
    top = logit_grad + kLossRows * (kLossLanes + 1);
    sum = top + kLossWarps * kLossLanes;
    carried = sum + kLossWarps * kLossLanes;
    top_patch = reinterpret_cast<int*>(carried + kLossLanes);
    carrier = top_patch + kLossWarps * kLossLanes;
    rows = carrier + kLossLanes;
  }
};

// f^ of one lane: in registers where d is known to the compiler (D > 0), else in shared memory.
template <class T, int D>
struct Sample {
  T value[D];
  __device__ Sample(const T* unit, int) {
#pragma unroll
    for (int c = 0; c < D; c++) value[c] = unit[c];
  }
  // Rows of means start at multiples of 16 bytes where d does.
  __device__ T dot(const T* mean) const {
    constexpr int kWide = 16 / (int)sizeof(T), V = D % kWide ? 1 : kWide;
    T sum = 0;
#pragma unroll
    for (int c = 0; c < D; c += V) {
      const auto part = *reinterpret_cast<const Pack<T, V>*>(mean + c);
#pragma unroll
      for (int v = 0; v < V; v++) sum += value[c + v] * part.value[v];
    }
    return sum;
  }
};
template <class T>
struct Sample<T, 0> {
  const T* unit;
  int d;
  __device__ Sample(const T* unit, int d) : unit(unit), d(d) {}
  __device__ T dot(const T* mean) const {
    T sum = 0;
    for (int c = 0; c < d; c++) sum += unit[c] * mean[c];
    return sum;
  }
};

__device__ inline float exp2_of(float x) { return exp2f(x); }
__device__ inline double exp2_of(double x) { return exp2(x); }
__device__ inline float log2_of(float x) { return log2f(x); }
__device__ inline double log2_of(double x) { return log2(x); }
__device__ inline float lowest(float) { return -1e30f; }
__device__ inline double lowest(double) { return -1e300; }

// log2 of the sum over patches of 2^logit of this lane's sample, the same in every warp.
template <class T, int D>
__device__ T log_sum_exp(const LossTask<T>& t, const LossShared<T>& s, const Sample<T, D>& sample, int lane, int warp) {
  const int k = *t.k;
  T top = lowest(T(0)), sum = 0;
  for (int i = warp; i < k; i += kLossWarps) {
    const T logit = sample.dot(t.mean + (int64_t)i * t.d);
    const T higher = logit > top ? logit : top;
    sum = sum * exp2_of(top - higher) + exp2_of(logit - higher);
    top = higher;
  }
  s.top[warp * kLossLanes + lane] = top;
  s.sum[warp * kLossLanes + lane] = sum;
  __syncthreads();
  for (int w = 0; w < kLossWarps; w++) top = s.top[w * kLossLanes + lane] > top ? s.top[w * kLossLanes + lane] : top;
  sum = 0;
  for (int w = 0; w < kLossWarps; w++) sum += s.sum[w * kLossLanes + lane] * exp2_of(s.top[w * kLossLanes + lane] - top);
  __syncthreads();
  return top + log2_of(sum);
}

// Carries logit_grad of `rows` patches (s.rows) to the samples and to the means. Every output has one thread and a fixed
// order of addition; only the sum over blocks, Sum, may differ in order.
template <class T, class Sum>
__device__ void spread_gradient(const LossTask<T>& t, const LossShared<T>& s, int rows) {
  auto* mean_grad = static_cast<typename Sum::Cell*>(t.mean_grad);
  const int d = t.d;
  for (int cell = threadIdx.x; cell < rows * d; cell += kLossThreads) {
    const int row = cell / d, c = cell % d;
    T sum = 0;
    for (int lane = 0; lane < kLossLanes; lane++) {
      sum += s.logit_grad[row * (kLossLanes + 1) + lane] * s.unit[lane * (d + 1) + c];
    }
    Sum::add(mean_grad + (int64_t)s.rows[row] * d + c, sum);
  }
  for (int cell = threadIdx.x; cell < kLossLanes * d; cell += kLossThreads) {
    const int lane = cell / d, c = cell % d;
    T sum = 0;
    for (int row = 0; row < rows; row++) {
      sum += s.logit_grad[row * (kLossLanes + 1) + lane] * t.mean[(int64_t)s.rows[row] * d + c];
    }
    s.unit_grad[lane * (d + 1) + c] += sum;
  }
}

// The same for one patch a sample: the terms that the running max overrode.
template <class T, class Sum>
__device__ void spread_carried(const LossTask<T>& t, const LossShared<T>& s) {
  auto* mean_grad = static_cast<typename Sum::Cell*>(t.mean_grad);
  for (int cell = threadIdx.x; cell < kLossLanes * t.d; cell += kLossThreads) {
    const int lane = cell / t.d, c = cell % t.d;
    if (s.carried[lane] == 0) continue;
    const int64_t at = (int64_t)s.carrier[lane] * t.d + c;
    Sum::add(mean_grad + at, s.carried[lane] * s.unit[lane * (t.d + 1) + c]);
    s.unit_grad[lane * (t.d + 1) + c] += s.carried[lane] * t.mean[at];
  }
}

// What a lane knows of its sample while it walks the levels.
template <class T>
struct Walk {
  T lse;      // of the sample
  T running;  // max over earlier levels
  int carrier;  // patch that holds it
  T total;    // loss of the terms that this warp took, base 2
};

// Level l of the anchor: patches related[begin .. end). Every warp takes every eighth.
template <class T, int D, class Sum>
__device__ void walk_level(const LossTask<T>& t, const LossShared<T>& s, const Sample<T, D>& sample, const uint16_t* related,
                           int begin, int end, T weight, bool real, Walk<T>& walk) {
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  T top = walk.running, held = 0;
  int top_at = -1;  // position in `related`; -1: the running max itself
  for (int first = begin; first < end; first += kLossRows) {
    const int rows = min(kLossRows, end - first);
    for (int row = warp; row < rows; row += kLossWarps) {
      const int patch = related[first + row];
      const T nll = walk.lse - sample.dot(t.mean + (int64_t)patch * t.d);
      const bool own = nll >= walk.running;
      if (real) walk.total += weight * (own ? nll : walk.running);
      held += own ? T(0) : T(1);
      s.logit_grad[row * (kLossLanes + 1) + lane] = own && real ? -weight : T(0);
      if (lane == 0) s.rows[row] = patch;
      if (nll > top) {
        top = nll;
        top_at = first + row;
      }
    }
    __syncthreads();
    if (t.with_grad) spread_gradient<T, Sum>(t, s, rows);
    __syncthreads();
  }
  s.top[warp * kLossLanes + lane] = top;
  s.sum[warp * kLossLanes + lane] = held;
  s.top_patch[warp * kLossLanes + lane] = top_at;
  __syncthreads();
  held = 0;
  top_at = -1;
  top = walk.running;
  for (int w = 0; w < kLossWarps; w++) {  // the first position among equals, whatever warp found it
    const T other = s.top[w * kLossLanes + lane];
    const int at = s.top_patch[w * kLossLanes + lane];
    held += s.sum[w * kLossLanes + lane];
    if (at >= 0 && (other > top || (other == top && top_at >= 0 && at < top_at))) {
      top = other;
      top_at = at;
    }
  }
  if (warp == 0) {
    s.carried[lane] = real ? -weight * held : T(0);
    s.carrier[lane] = walk.carrier;
  }
  __syncthreads();
  if (t.with_grad) spread_carried<T, Sum>(t, s);
  walk.running = top;
  if (top_at >= 0) walk.carrier = related[top_at];
  __syncthreads();
}

// The softmax's part of the gradient: every patch, weights of all levels together.
template <class T, int D, class Sum>
__device__ void spread_softmax(const LossTask<T>& t, const LossShared<T>& s, const Sample<T, D>& sample, T weights, T lse,
                               bool real) {
  const int k = *t.k, lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  for (int first = 0; first < k; first += kLossRows) {
    const int rows = min(kLossRows, k - first);
    for (int row = warp; row < rows; row += kLossWarps) {
      const T logit = sample.dot(t.mean + (int64_t)(first + row) * t.d);
      s.logit_grad[row * (kLossLanes + 1) + lane] = real ? weights * exp2_of(logit - lse) : T(0);
      if (lane == 0) s.rows[row] = first + row;
    }
    __syncthreads();
    spread_gradient<T, Sum>(t, s, rows);
    __syncthreads();
  }
}

// Grid: tiles_max.
template <class T, int D, class Sum>
__global__ void __launch_bounds__(kLossThreads) loss_tiles(LossTask<T> t) {
  if (!has_tile(t)) {
    if (threadIdx.x == 0) t.tile_loss[blockIdx.x] = 0;
    return;
  }
  const LossShared<T> s(t.d);
  const LossTile tile = find_tile(t);
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, d = t.d;
  for (int cell = threadIdx.x; cell < kLossLanes * d; cell += kLossThreads) {
    const int row = cell / d, c = cell % d;
    s.unit[row * (d + 1) + c] = row < tile.samples ? t.unit[(int64_t)(tile.begin + row) * d + c] : T(0);
    s.unit_grad[row * (d + 1) + c] = 0;
  }
  __syncthreads();
  const Sample<T, D> sample(s.unit + lane * (d + 1), d);
  const bool real = lane < tile.samples;
  Walk<T> walk{log_sum_exp(t, s, sample, lane, warp), lowest(T(0)), 0, T(0)};
  const uint16_t* related = t.related + (int64_t)tile.anchor * t.k_max;
  const uint16_t* ends = t.ends + (int64_t)tile.anchor * t.k_max;
  double decay = 1, weights = 0;
  for (int level = 0, begin = 0; level < t.n_levels[tile.anchor] && decay > 0; level++, decay *= t.level_decay) {
    const int end = ends[level] + 1;
    walk_level<T, D, Sum>(t, s, sample, related, begin, end, (T)(decay / (end - begin)), real, walk);
    weights += decay;
    begin = end;
  }
  if (t.with_grad && weights > 0) spread_softmax<T, D, Sum>(t, s, sample, (T)weights, walk.lse, real);
  for (int cell = threadIdx.x; t.with_grad && cell < tile.samples * d; cell += kLossThreads) {
    t.unit_grad[(int64_t)(tile.begin + cell / d) * d + cell % d] = s.unit_grad[cell / d * (d + 1) + cell % d];
  }
  const T total = warp_sum(walk.total);
  if (lane == 0) s.sum[warp] = total;
  __syncthreads();
  if (threadIdx.x == 0) {
    double sum = 0;
    for (int w = 0; w < kLossWarps; w++) sum += s.sum[w];
    t.tile_loss[blockIdx.x] = sum;
  }
}

// One block. Sums the tiles in a fixed order.
template <class T>
__global__ void sum_loss(LossTask<T> t) {
  double* partial = reinterpret_cast<double*>(dynamic_shared());
  double sum = 0;
  for (int i = threadIdx.x; i < t.tiles_max; i += blockDim.x) sum += t.tile_loss[i];
  sum = warp_sum(sum);
  if (threadIdx.x % kWarp == 0) partial[threadIdx.x / kWarp] = sum;
  __syncthreads();
  if (threadIdx.x > 0) return;
  sum = 0;
  for (int w = 0; w < (int)blockDim.x / kWarp; w++) sum += partial[w];
  *t.loss = *t.poisoned ? (T)NAN : (T)(sum * 0.6931471805599453 * t.weight);
}

// Grid: tiles_max. The means' gradient joins each sample's own; through the detached norm, to the input's order.
template <class T, class Sum>
__global__ void scatter_gradient(LossTask<T> t) {
  if (!has_tile(t)) return;
  const LossTile tile = find_tile(t);
  const auto* mean_grad = static_cast<const typename Sum::Cell*>(t.mean_grad) + (int64_t)tile.anchor * t.d;
  const int n = t.start[tile.anchor + 1] - t.start[tile.anchor];
  const T own = (T)(0.6931471805599453 * t.weight), through_mean = (T)(t.weight / ((double)t.phi[tile.anchor] * n));
  for (int cell = threadIdx.x; cell < tile.samples * t.d; cell += blockDim.x) {
    const int64_t i = tile.begin + cell / t.d, c = cell % t.d;
    const T grad = (t.unit_grad[i * t.d + c] * own + Sum::value(mean_grad[c]) * through_mean) / t.norm[i];
    t.grad[(int64_t)t.order[i] * t.d + c] = *t.poisoned ? (T)NAN : grad;
  }
}

template <class T, class Sum>
void launch_tiles(const LossTask<T>& t, const Stream& stream) {
  const int64_t bytes = LossShared<T>::bytes(t.d);
  switch (t.d) {
    case 4: return stream.launch(loss_tiles<T, 4, Sum>, t.tiles_max, kLossThreads, bytes, t);
    case 8: return stream.launch(loss_tiles<T, 8, Sum>, t.tiles_max, kLossThreads, bytes, t);
    case 16: return stream.launch(loss_tiles<T, 16, Sum>, t.tiles_max, kLossThreads, bytes, t);
    case 24: return stream.launch(loss_tiles<T, 24, Sum>, t.tiles_max, kLossThreads, bytes, t);
    case 32: return stream.launch(loss_tiles<T, 32, Sum>, t.tiles_max, kLossThreads, bytes, t);
    case 64: return stream.launch(loss_tiles<T, 64, Sum>, t.tiles_max, kLossThreads, bytes, t);
    default: return stream.launch(loss_tiles<T, 0, Sum>, t.tiles_max, kLossThreads, bytes, t);
  }
}

// The whole op on one stream, for k_max > 0. The grid's sizes are bounds, so the host never waits for the device.
template <class T, class Sum>
void launch_loss(const LossTask<T>& t, int64_t cleared, const Stream& stream) {
  constexpr int kPatchThreads = 128;
  stream.clear(t.histogram, cleared);
  stream.launch(count_samples<T>, t.chunks, 256, 0, t);
  stream.launch(select_patches<T>, 1, 1024, 33 * sizeof(int), t);
  stream.launch(place_samples<T>, t.chunks, kWarp, 0, t);
  stream.launch(normalise_tiles<T>, t.tiles_max, kLossThreads, kLossLanes * t.d * sizeof(T), t);
  stream.launch(patch_means<T>, t.k_max, kPatchThreads, means_shared(kPatchThreads, t.d, sizeof(T)), t);
  stream.launch(spread_tiles<T>, t.tiles_max, kLossThreads, kLossWarps * sizeof(T), t);
  stream.launch(level_tables<T>, t.k_max, 256, 9 * sizeof(int), t);
  launch_tiles<T, Sum>(t, stream);
  stream.launch(sum_loss<T>, 1, 256, 8 * sizeof(double), t);
  if (t.with_grad) stream.launch(scatter_gradient<T, Sum>, t.tiles_max, kLossThreads, 0, t);
}

#ifdef SPLATSEG_INSTANTIATE  // for compile_check.py
template void launch_loss<float, FastSum<float>>(const LossTask<float>&, int64_t, const Stream&);
template void launch_loss<float, ExactSum<float>>(const LossTask<float>&, int64_t, const Stream&);
template void launch_loss<double, FastSum<double>>(const LossTask<double>&, int64_t, const Stream&);
template void launch_loss<double, ExactSum<double>>(const LossTask<double>&, int64_t, const Stream&);
#endif

}  // namespace splatseg::cuda
