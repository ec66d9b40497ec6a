// A replayed step of the feature fit up to the gradient of its pixels: blend, with what the loss needs of each row, and the
// loss. Mirrors splatseg/ops/reference/replay.py. The step's batch is found on the device, so that one captured graph serves
// every step; its rows lie together, sorted by patch, and its tables were made before the first step.
#pragma once
#include "cuda/adam_kernels.cuh"
#include "cuda/blend_kernels.cuh"
#include "cuda/loss_kernels.cuh"

namespace splatseg::cuda {

constexpr int kBlendWarps = kBlendThreads / kWarp;
constexpr int kTileParts = kLossSamples / kBlendWarps;  // blocks of blend_units for a tile, a row a warp

template <class T, class W>
struct PooledTask {
  BlendTask<T, W> blend;  // its rows are those of all batches
  LossTask<T> loss;
};

// Notes which step is on, and clears what the step's later kernels count and add up in.
template <class T>
__device__ void begin_step(const LossTask<T>& t) {
  const int64_t i = (int64_t)blockIdx.x * kBlendThreads + threadIdx.x, step = t.pool.cells[0];
  if (i == 0) {
    const bool any = step >= 0 && step < t.pool.steps;
    t.pool.cells[1] = step;
    t.pool.cells[2] = any ? t.pool.schedule[step] : -1;
    *t.poisoned = 0;
  }
  const int64_t stride = (int64_t)gridDim.x * kBlendThreads, sums = (int64_t)t.k_max * t.d;
  for (int64_t k = i; k < 2 + t.k_max; k += stride) t.arrived[k] = 0;
  for (int64_t k = i; k < sums; k += stride) static_cast<unsigned long long*>(t.mean_grad)[k] = 0;
}

// f^ and norm of one row of the product, and f^ into `shared` (d,). By one warp.
template <class T, class W, int V, int L>
__device__ void blend_unit(const PooledTask<T, W>& t, const RowRange& r, int64_t sample, T* shared) {
  const int lane = threadIdx.x % kWarp, sub = lane % L;
  const int64_t d = t.blend.d;
  T* unit = t.loss.unit + sample * d;
  T square = 0;
  auto sum = zero_pack<T, V>();
  for (int64_t first = 0; first < d; first += V * L) {
    const int64_t c = first + sub * V;
    sum = row_sum<T, W, V, L>(t.blend, r, c);
#pragma unroll
    for (int v = 0; v < V; v++) square += sum.value[v] * sum.value[v];
    if (d > V * L && lane < L && c < d) *reinterpret_cast<Pack<T, V>*>(unit + c) = sum;  // until the norm is known
  }
  const T norm = sqrt(group_sum<L>(square)) + T(1e-6);
  if (lane == 0) t.loss.norm[sample] = norm;
  for (int64_t c = sub * V; lane < L && c < d; c += V * L) {
    if (d > V * L) sum = *reinterpret_cast<const Pack<T, V>*>(unit + c);
#pragma unroll
    for (int v = 0; v < V; v++) sum.value[v] /= norm;
    *reinterpret_cast<Pack<T, V>*>(unit + c) = sum;
    *reinterpret_cast<Pack<T, V>*>(shared + c) = sum;
  }
}

// Grid: tiles_max kTileParts. A warp for each of the kept rows of the step's batch; the block's f^ are summed in a fixed order.
template <class T, class W, int V, int L>
__global__ void __launch_bounds__(kBlendThreads, V == 4 ? 5 : 1) blend_units(PooledTask<T, W> t) {
  begin_step(t.loss);
  const int64_t d = t.blend.d;
  const int tile_at = (int)blockIdx.x / kTileParts, part = (int)blockIdx.x % kTileParts, warp = threadIdx.x / kWarp;
  if (!t.loss.upcoming() || tile_at >= t.loss.counts().tiles) return;
  const LossTile tile = t.loss.tiles()[tile_at];
  const int rows = min(kBlendWarps, tile.samples - part * kBlendWarps);
  if (rows <= 0) return;
  T* units = reinterpret_cast<T*>(dynamic_shared());
  if (warp < rows) {
    const int64_t sample = tile.begin + part * kBlendWarps + warp;
    const RowRange range = range_of(t.blend, sample, t.loss.first_row + sample);
    blend_unit<T, W, V, L>(t, range, sample, units + warp * d);
  }
  __syncthreads();
  for (int c = threadIdx.x; c < d; c += kBlendThreads) {
    T sum = 0;
    for (int w = 0; w < rows; w++) sum += units[w * d + c];
    t.loss.part_sum[(int64_t)blockIdx.x * d + c] = sum;
  }
}

template <class T>
int64_t unit_bytes(int64_t d) {
  return kBlendWarps * d * (int64_t)sizeof(T);
}

// For d > 0. Beyond the last step nothing happens.
template <class T, class W, class Sum>
void launch_pooled_loss(const PooledTask<T, W>& t, int64_t cleared, const Stream& stream) {
  if (!t.loss.pool.prepared) launch_tables(t.loss, cleared, stream);
  with_row_layout<T>(t.blend.d, [&](auto v, auto l) {
    const int64_t blocks = (int64_t)t.loss.tiles_max * kTileParts;
    stream.launch(blend_units<T, W, v(), l()>, blocks, kBlendThreads, unit_bytes<T>(t.blend.d), t);
  });
  launch_contrast<T, kTileParts, Sum>(t.loss, stream);
}

#ifdef SPLATSEG_INSTANTIATE  // for compile_check.py
#define SPLATSEG_POOLED(T, W)                                                                             \
  template void launch_pooled_loss<T, W, FastSum<T>>(const PooledTask<T, W>&, int64_t, const Stream&);   \
  template void launch_pooled_loss<T, W, ExactSum<T>>(const PooledTask<T, W>&, int64_t, const Stream&);
SPLATSEG_POOLED(float, float)
SPLATSEG_POOLED(float, Half)
SPLATSEG_POOLED(double, double)
#undef SPLATSEG_POOLED
#endif

}  // namespace splatseg::cuda
