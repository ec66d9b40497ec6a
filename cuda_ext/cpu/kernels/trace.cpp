// The walk of rasterize_tile.h for chosen pixels: the same expressions in the same order, so that a pixel takes the same
// decisions (drawn, finished) here and there. Mirrors splatseg/ops/reference/trace.py.
#include "cpu/trace.h"

#include "cpu/simd.h"

namespace splatseg::SPLATSEG_ISA {
namespace {

constexpr double kLog2Of255 = 7.994353436858858;

// The lanes' pixels as rasterize's 4x4 blocks see them: corner of the block in the tile, center of the pixel in the block.
template <class T>
struct Lanes {
  Vec<T> block_x, block_y, column, row, lower;  // lower: 2 in the lower half of a block, which is offset from the upper one
  Vec<T> transmittance;
  Vec<T> floor;                                 // least exponent drawn; infinity where the pixel is done
  int x0, x1, y0, y1;                           // box of the pixels, inclusive

  __attribute__((always_inline)) explicit Lanes(const TraceLanes<T>& job) {
    transmittance = splat(T(1));
    x0 = y0 = 1 << 30;
    x1 = y1 = -1;
    for (int l = 0; l < kLanes; l++) {
      const bool used = l < job.lanes;
      const int x = used ? job.column[l] : job.tile_x, y = used ? job.row[l] : job.tile_y;
      const int in_x = x - job.tile_x, in_y = y - job.tile_y;
      block_x[l] = T(in_x / 4 * 4);
      block_y[l] = T(in_y / 4 * 4);
      column[l] = T(in_x % 4) + T(0.5);
      row[l] = T(in_y % 2) + T(0.5);
      lower[l] = T(in_y % 4 / 2 * 2);
      floor[l] = used ? T(-kLog2Of255) : T(__builtin_inf());
      if (!used) continue;
      x0 = x < x0 ? x : x0;
      x1 = x > x1 ? x : x1;
      y0 = y < y0 ? y : y0;
      y1 = y > y1 ? y : y1;
    }
  }
};

template <class T>
SPLATSEG_INLINE void emit(const TraceLanes<T>& job, unsigned lanes, int32_t id, Vec<T> weight) {
  T values[kLanes];
  store(values, weight);
  for (; lanes; lanes &= lanes - 1) {
    const int l = __builtin_ctz(lanes);
    const int64_t at = l * job.capacity + job.lengths[l]++;
    job.ids[at] = id;
    job.weights[at] = values[l];
  }
}

constexpr int kGlance = 64;

// List entries [begin, end) whose box meets that of the lanes, in order; no branch depends on the boxes.
template <class T>
SPLATSEG_INLINE int glance(const TraceLanes<T>& job, const Lanes<T>& lanes, int64_t begin, int64_t end, int32_t* near) {
  int count = 0;
  for (int64_t k = begin; k < end; k++) {
    if (k + 12 < job.count) __builtin_prefetch(job.splats + job.list[k + 12]);
    const Splat<T>& s = job.splats[job.list[k]];
    near[count] = job.list[k];
    count += (s.x1 >= lanes.x0) & (s.x0 <= lanes.x1) & (s.y1 >= lanes.y0) & (s.y0 <= lanes.y1);
  }
  return count;
}

// Blends one splat into the lanes; false when no lane is left.
template <class T>
SPLATSEG_INLINE bool step(const TraceLanes<T>& job, Lanes<T>& lanes, int32_t id) {
  typedef Vec<T> V;
  const Splat<T>& s = job.splats[id];
  const V dx = lanes.column + (lanes.block_x - (s.x - job.tile_x));
  const V dy = lanes.row + (lanes.block_y - (s.y - job.tile_y)) + lanes.lower;
  const V exponent = dx * (s.b * dy + s.a * dx) + (s.c * dy * dy + s.log2_opacity);
  Mask<T> drawn = (exponent >= lanes.floor) & (exponent <= s.log2_opacity);
  if (!any(drawn)) return true;
  const V alpha = vmin(exp2v_near_zero(exponent), splat(T(0.999)));
  const V product = alpha * lanes.transmittance, after = lanes.transmittance - product;
  const Mask<T> done = drawn & (after <= T(1e-4));
  drawn &= ~done;
  const V weight = keep(drawn, product);
  lanes.transmittance -= weight;
  emit(job, bits((Mask<T>)(drawn & (weight >= job.min_weight))), id, weight);
  if (__builtin_expect(!any(done), 1)) return true;
  lanes.floor = done ? splat(T(__builtin_inf())) : lanes.floor;
  return any((Mask<T>)(lanes.floor < T(1)));
}

template <class T>
void walk(const TraceLanes<T>& job) {
  Lanes<T> lanes(job);
  int32_t near[kGlance];
  for (int l = 0; l < kLanes; l++) job.lengths[l] = 0;
  for (int64_t begin = 0; begin < job.count; begin += kGlance) {
    const int64_t end = begin + kGlance < job.count ? begin + kGlance : job.count;
    const int count = glance(job, lanes, begin, end, near);
    for (int k = 0; k < count; k++)
      if (!step(job, lanes, near[k])) return;
  }
}

}  // namespace

void trace_lanes_f32(const TraceLanes<float>& job) { walk(job); }
void trace_lanes_f64(const TraceLanes<double>& job) { walk(job); }

}  // namespace splatseg::SPLATSEG_ISA
