// Blending weights of chosen pixels from gsplat's tile lists. Mirrors splatseg/ops/reference/trace_tiles.py.
//
// One warp a pixel: the lanes take 32 Gaussians of the tile's list at a time; those that reach the pixel are then blended
// one after the other, so that transmittance is multiplied in gsplat's order. Two passes, count and fill, as only the
// device knows how long the rows are.
#pragma once
#include "cuda/device.cuh"

namespace splatseg::cuda {

constexpr int kTraceThreads = 256;
constexpr int kTileSide = 16;

struct TraceTask {
  int rows, columns, tiles, entries;  // pixels; tiles in a row of them; all tiles; length of the list
  int n;                              // Gaussians
  float min_weight;
  const int* pixels;        // (rows, 2) [column, row] inside the image
  const float* means2d;     // (n, 2)
  const float* conics;      // (n, 3)
  const float* opacities;   // (n,)
  const int* tile_offsets;  // (tiles,)
  const int* list;          // (entries,)
  int64_t* offsets;         // (rows + 1,): count writes lengths from [1]; fill reads their running sum
  int* ids;                 // out, of fill
  float* weights;           // out, of fill
};

// Opacity of one Gaussian at a pixel; 0 where it is not drawn. The expressions are gsplat's.
__device__ inline float alpha_at(const TraceTask& t, int id, float x, float y) {
  const auto mean = reinterpret_cast<const Pack<float, 2>*>(t.means2d)[id];
  const float* conic = t.conics + 3 * (int64_t)id;
  const float dx = mean.value[0] - x, dy = mean.value[1] - y;
  const float sigma = 0.5f * (conic[0] * dx * dx + conic[2] * dy * dy) + conic[1] * dx * dy;
  const float alpha = min(0.999f, t.opacities[id] * fast_exp(-sigma));
  return sigma < 0.f || !(alpha >= 1.f / 255.f) ? 0.f : alpha;
}

template <bool Fill>
__global__ void trace_rows(TraceTask t) {
  const int row = (int)(((int64_t)blockIdx.x * kTraceThreads + threadIdx.x) / kWarp), lane = threadIdx.x % kWarp;
  if (row >= t.rows) return;
  const int column = t.pixels[2 * (int64_t)row], line = t.pixels[2 * (int64_t)row + 1];
  const int tile = line / kTileSide * t.columns + column / kTileSide;
  const int begin = t.tile_offsets[tile], end = tile + 1 < t.tiles ? t.tile_offsets[tile + 1] : t.entries;
  int64_t at = Fill ? t.offsets[row] : 0;
  const int64_t row_end = Fill ? t.offsets[row + 1] : 0;  // never past it, should the passes ever differ
  float transmittance = 1.f;
  bool done = false;
  for (int base = begin; base < end && !done; base += kWarp) {
    const int id = base + lane < end ? t.list[base + lane] : -1;
    const float alpha = id >= 0 && id < t.n ? alpha_at(t, id, column + 0.5f, line + 0.5f) : 0.f;
    for (unsigned drawn = __ballot_sync(kFullWarp, alpha > 0.f); drawn; drawn &= drawn - 1) {
      const int source = __ffs((int)drawn) - 1;
      const float own = __shfl_sync(kFullWarp, alpha, source);
      const float after = transmittance * (1.f - own);
      if (after <= 1e-4f) {
        done = true;
        break;
      }
      const float weight = own * transmittance;
      transmittance = after;
      if (weight < t.min_weight) continue;
      if (Fill && at < row_end && lane == source) {
        t.ids[at] = id;
        t.weights[at] = weight;
      }
      at++;
    }
  }
  if (!Fill && lane == 0) t.offsets[row + 1] = at;
}

inline int64_t trace_blocks(const TraceTask& t) { return ((int64_t)t.rows * kWarp + kTraceThreads - 1) / kTraceThreads; }

// For rows > 0. Between the two the caller sums the lengths up and makes room.
inline void launch_count(const TraceTask& t, const Stream& stream) {
  stream.launch(trace_rows<false>, trace_blocks(t), kTraceThreads, 0, t);
}
inline void launch_fill(const TraceTask& t, const Stream& stream) {
  stream.launch(trace_rows<true>, trace_blocks(t), kTraceThreads, 0, t);
}

#ifdef SPLATSEG_INSTANTIATE  // for compile_check.py
template __global__ void trace_rows<false>(TraceTask);
template __global__ void trace_rows<true>(TraceTask);
#endif

}  // namespace splatseg::cuda
