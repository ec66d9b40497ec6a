// Backward of the blending, front to back as the forward: what lies behind a splat is the pixel's total less what lies in
// front of it, so one pass over the same lists suffices. Gradients of a splat's pixels in one tile are summed into the
// slot of that (Gaussian, tile) pair.
#include "cpu/rasterize.h"

#include <stdlib.h>

#include "cpu/rasterize_tile.h"

namespace splatseg::SPLATSEG_ISA {
namespace {

constexpr int kGeometry = 1, kFeatures = 2, kAbsgrad = 4;  // what a walk computes
constexpr int kColors = 4;                                 // r, g, b, depth

// Gradients of one tile's outputs, in the tile's pixel order.
template <class T>
struct TileGrads {
  alignas(64) T colors[kBlocks][kColors][kBlockPixels];
  alignas(64) T behind[kTilePixels];  // gradient . output still behind the splat at hand
  T* features;                        // [block][channel][pixel]
  T* feature_sums;                    // [padded channel][lane] of the pair at hand
};

template <int kMode, class T>
SPLATSEG_INLINE T load_feature_pixel(const RasterBackwardArgs<T>& args, TileGrads<T>& grads, int block, int lane,
                                     int64_t pixel) {
  const int channels = args.forward.channels;
  const T* grad = args.feature_map + pixel * channels;
  T* column = grads.features + size_t(block) * channels * kBlockPixels + lane;
  for (int c = 0; c < channels; c++) column[c * kBlockPixels] = grad[c];
  T total = 0;
  if constexpr ((kMode & kGeometry) != 0) {
    const T* value = args.forward.feature_map + pixel * channels;
    for (int c = 0; c < channels; c++) total += grad[c] * value[c];
  }
  return total;
}

// Gradients of color, alpha and depth of `count` <= 4 neighboring pixels, from lane `lane` of a block on. Depth is d = D / A,
// so D gets v / A and A gets -v d / A.
template <class T>
SPLATSEG_INLINE void load_color_row(const RasterBackwardArgs<T>& args, TileGrads<T>& grads, int block, int lane, int64_t pixel,
                                    int count) {
  T(*to)[kBlockPixels] = grads.colors[block];
  T total[4] = {}, alpha_grad[4] = {};
  if (args.color != nullptr) {
    for (int x = 0; x < count; x++) {
      for (int c = 0; c < 3; c++) {
        to[c][lane + x] = args.color[3 * (pixel + x) + c];
        total[x] += to[c][lane + x] * args.forward.color[3 * (pixel + x) + c];
      }
    }
  }
  const T* alpha = args.forward.alpha + pixel;
  if (args.alpha != nullptr) memcpy(alpha_grad, args.alpha + pixel, count * sizeof(T));
  if (args.depth != nullptr) {
    for (int x = 0; x < count; x++) {
      if (!(alpha[x] > T(0))) continue;
      const T depth = args.forward.depth[pixel + x], grad = args.depth[pixel + x] / alpha[x];
      to[3][lane + x] = grad;
      alpha_grad[x] -= grad * depth;
      total[x] += grad * depth * alpha[x];
    }
  }
  T* behind = grads.behind + block * kBlockPixels + lane;  // alpha = 1 - transmittance: a background of color -1
  for (int x = 0; x < count; x++) behind[x] = total[x] - alpha_grad[x] * (T(1) - alpha[x]);
}

template <int kMode, class T>
SPLATSEG_INLINE void load_row(const RasterBackwardArgs<T>& args, TileGrads<T>& grads, int block, int lane, int64_t pixel,
                              int count) {
  if constexpr ((kMode & kGeometry) != 0) load_color_row(args, grads, block, lane, pixel, count);
  if constexpr ((kMode & kFeatures) != 0) {
    for (int x = 0; x < count; x++)
      grads.behind[block * kBlockPixels + lane + x] += load_feature_pixel<kMode>(args, grads, block, lane + x, pixel + x);
  }
}

template <int kMode, class T>
SPLATSEG_INLINE void load_grads(const RasterBackwardArgs<T>& args, const Tile<T>& tile, TileGrads<T>& grads) {
  memset(grads.behind, 0, sizeof grads.behind);
  if constexpr ((kMode & kGeometry) != 0) memset(grads.colors, 0, sizeof grads.colors);
  if constexpr ((kMode & kFeatures) != 0) memset(grads.features, 0, sizeof(T) * kTilePixels * args.forward.channels);
  for (int y = 0; y < tile.rows; y++) {
    for (int x = 0; x < tile.columns; x += 4) {
      const int block = y / 4 * 4 + x / 4, lane = y % 4 * 4, left = tile.columns - x;
      const int64_t pixel = int64_t(tile.y0 + y) * args.forward.width + tile.x0 + x;
      left < 4 ? load_row<kMode>(args, grads, block, lane, pixel, left) : load_row<kMode>(args, grads, block, lane, pixel, 4);
    }
  }
}

// Sums of one pair over the lanes of its blocks so far.
template <class T>
struct PairSums {
  Vec<T> sum[12];
};

// One channel: the pixels' gradient times the splat's feature to value, times the weight to the channel's sum.
template <int kMode, class T>
SPLATSEG_INLINE void add_channel(const T* grad, T feature, const Vec<T> weight[2], Vec<T> value[2], T* sum) {
  typedef Vec<T> V;
  const V g0 = load(grad), g1 = load(grad + kLanes);
  if constexpr ((kMode & kGeometry) != 0) {
    value[0] += g0 * feature;
    value[1] += g1 * feature;
  }
  store(sum, load(sum) + weight[0] * g0 + weight[1] * g1);
}

// One pass over a block's feature gradients serves both the splat's value and its own gradient.
template <int kMode, class T>
SPLATSEG_INLINE void add_features(const TileGrads<T>& grads, int block, const T* row, int channels, const Vec<T> weight[2],
                                  Vec<T> value[2]) {
  const T* grad = grads.features + size_t(block) * channels * kBlockPixels;
  T* sum = grads.feature_sums;
  Vec<T> odd[2] = {};
  int c = 0;
  for (; c + 2 <= channels; c += 2, grad += 2 * kBlockPixels, sum += 2 * kLanes) {
    add_channel<kMode>(grad, row[c], weight, value, sum);
    add_channel<kMode>(grad + kBlockPixels, row[c + 1], weight, odd, sum + kLanes);
  }
  if (c < channels) add_channel<kMode>(grad, row[c], weight, value, sum);
  for (int h = 0; h < 2; h++) value[h] += odd[h];
}

// Gradient of sigma in half h of a block: -alpha v_alpha, v_alpha = T value - behind / (1 - alpha); 0 where alpha is clamped.
template <class T>
SPLATSEG_INLINE Vec<T> sigma_grad(const BlockHit<T>& hit, int h, const Blend<T>& blended, Vec<T> value, T* behind_at) {
  const Vec<T> behind = load(behind_at) - blended.weight * value;
  store(behind_at, behind);
  const Vec<T> slope = blended.alpha * (behind / (T(1) - blended.alpha) - blended.before * value);
  return keep(hit.drawn[h] & (blended.raw_alpha <= splat(T(0.999))), slope);
}

// Adds both halves' gradients of sigma at once: the upper half's dy is the lower's plus 2, and dx is the same.
template <int kMode, class T>
SPLATSEG_INLINE void add_geometry(const TileSplat<T>& s, const BlockHit<T>& hit, Vec<T> v0, Vec<T> v1, PairSums<T>& out) {
  typedef Vec<T> V;
  const V total = v0 + v1, twice = v1 + v1;
  const V x = total * hit.dx, y = total * hit.dy[0] + twice;
  out.sum[kSigma] += total;
  out.sum[kSigmaX] += x;
  out.sum[kSigmaY] += y;
  out.sum[kSigmaXX] += x * hit.dx;
  out.sum[kSigmaXY] += y * hit.dx;
  out.sum[kSigmaYY] += y * hit.dy[0] + twice * hit.dy[1];
  if constexpr ((kMode & kAbsgrad) != 0) {
    const V v[2] = {v0, v1};
    for (int h = 0; h < 2; h++) {
      const V vx = v[h] * hit.dx, vy = v[h] * hit.dy[h];
      out.sum[kAbsX] += absv(T(2) * s.a * vx + s.b * vy);
      out.sum[kAbsY] += absv(s.b * vx + T(2) * s.c * vy);
    }
  }
}

// One block that the splat is drawn in.
template <int kMode, class T>
SPLATSEG_INLINE void add_block(const RasterBackwardArgs<T>& args, const TileSplat<T>& s, const Splat<T>& record,
                               const T* row, Tile<T>& tile, size_t block, TileGrads<T>& grads,
                               PairSums<T>& out) {
  typedef Vec<T> V;
  BlockHit<T> hit;
  reach(s, tile, block, hit);
  const T(*colors)[kBlockPixels] = grads.colors[block];
  Blend<T> blended[2];
  blend(hit, tile, block, blended);
  const V weight[2] = {blended[0].weight, blended[1].weight};
  V value[2] = {}, v[2];
  if constexpr ((kMode & kGeometry) != 0) {
    for (int h = 0; h < 2; h++) {
      value[h] = load(colors[0] + h * kLanes) * record.color[0] + load(colors[1] + h * kLanes) * record.color[1];
      value[h] += load(colors[2] + h * kLanes) * record.color[2];
    }
    if (args.depth != nullptr)
      for (int h = 0; h < 2; h++) value[h] += load(colors[3] + h * kLanes) * record.depth;
  }
  if constexpr ((kMode & kFeatures) != 0) add_features<kMode>(grads, block, row, args.forward.channels, weight, value);
  if constexpr ((kMode & kGeometry) != 0) {
    for (int h = 0; h < 2; h++)
      v[h] = sigma_grad(hit, h, blended[h], value[h], grads.behind + block * kBlockPixels + h * kLanes);
    add_geometry<kMode>(s, hit, v[0], v[1], out);
    for (int c = 0; c < 3; c++)
      out.sum[kRed + c] += weight[0] * load(colors[c]) + weight[1] * load(colors[c] + kLanes);
    if (args.depth != nullptr) out.sum[kDepth] += weight[0] * load(colors[3]) + weight[1] * load(colors[3] + kLanes);
  }
}

template <class T>
SPLATSEG_INLINE void write_pair(const PairSums<T>& sums, T* slot) {
  typedef Vec<T> V;
  const V zero = {};
  const V low[8] = {sums.sum[0], sums.sum[1], sums.sum[2], sums.sum[3], sums.sum[4], sums.sum[5], sums.sum[6], sums.sum[7]};
  const V high[8] = {sums.sum[8], sums.sum[9], sums.sum[10], sums.sum[11], zero, zero, zero, zero};
  stream(slot, hsum8(low));
  stream(slot + kLanes, hsum8(high));
}

template <class T>
SPLATSEG_INLINE void write_features(const T* sums, int padded, T* slot) {
  for (int c = 0; c < padded; c += kLanes) {
    Vec<T> channels[8];
    for (int k = 0; k < 8; k++) channels[k] = load(sums + (c + k) * kLanes);
    stream(slot + c, hsum8(channels));
  }
}

template <class T>
SPLATSEG_INLINE void write_zeros(int count, T* slot) {  // count: a multiple of 8
  for (int c = 0; c < count; c += kLanes) stream(slot + c, splat(T(0)));
}

template <class T>
SPLATSEG_INLINE size_t pair_slot(const Splat<T>& s, const Tile<T>& tile) {
  const int x0 = s.x0 / kTile, columns = s.x1 / kTile - x0 + 1;
  return size_t(s.slot) + size_t(tile.y0 / kTile - s.y0 / kTile) * columns + (tile.x0 / kTile - x0);
}

// Pair k: all blocks that the splat is drawn in.
template <int kMode, class T>
SPLATSEG_INLINE void walk_pair(const RasterBackwardArgs<T>& args, int32_t k, Tile<T>& tile, TileGrads<T>& grads) {
  const int64_t id = args.forward.ids[k];
  const Splat<T>& record = args.forward.splats[id];
  const size_t slot = pair_slot(record, tile);
  const int padded = padded_channels(args.forward.channels);
  T* geometry_slot = (kMode & kGeometry) != 0 ? args.pair_grads + slot * kPairGrads : nullptr;
  T* feature_slot = (kMode & kFeatures) != 0 ? args.pair_features + slot * padded : nullptr;
  unsigned rest = args.forward.blocks[k];
  if (rest == 0) {
    if constexpr ((kMode & kGeometry) != 0) write_zeros(kPairGrads, geometry_slot);
    if constexpr ((kMode & kFeatures) != 0) write_zeros(padded, feature_slot);
    return;
  }
  const TileSplat<T> s(record, tile.x0, tile.y0);
  const T* row = (kMode & kFeatures) != 0 ? args.forward.features + id * args.forward.channels : nullptr;
  if constexpr ((kMode & kFeatures) != 0) memset(grads.feature_sums, 0, sizeof(T) * kLanes * padded);
  PairSums<T> sums;
  for (int k = 0; k < 12; k++) sums.sum[k] = splat(T(0));
  for (; rest != 0; rest &= rest - 1)
    add_block<kMode>(args, s, record, row, tile, size_t(__builtin_ctz(rest)), grads, sums);
  if constexpr ((kMode & kGeometry) != 0) write_pair(sums, geometry_slot);
  if constexpr ((kMode & kFeatures) != 0) write_features(grads.feature_sums, padded, feature_slot);
}

template <int kMode, class T>
void walk_tile(const RasterBackwardArgs<T>& args, int index, TileGrads<T>& grads) {
  const RasterArgs<T>& forward = args.forward;
  Tile<T> tile(index, forward.width, forward.height);
  int32_t k = forward.offsets[index];
  const int32_t end = forward.offsets[index + 1];
  if (k == end) return;
  load_grads<kMode>(args, tile, grads);
  for (; k < end; k++) {
    if (k + 8 < end) {
      __builtin_prefetch(forward.splats + forward.ids[k + 8]);
      if constexpr ((kMode & (kGeometry | kFeatures)) == (kGeometry | kFeatures))
        __builtin_prefetch(forward.features + int64_t(forward.ids[k + 8]) * forward.channels);
    }
    walk_pair<kMode>(args, k, tile, grads);
  }
  stream_fence();
}

template <int kMode, class T>
void walk(const RasterBackwardArgs<T>& args) {
  const int tiles = ((args.forward.width + kTile - 1) / kTile) * ((args.forward.height + kTile - 1) / kTile);
#pragma omp parallel num_threads(args.forward.threads)
  {
    TileGrads<T>* grads = static_cast<TileGrads<T>*>(aligned_alloc(64, sizeof(TileGrads<T>)));
    const size_t channels = args.forward.channels;
    grads->features = static_cast<T*>(aligned_alloc(64, sizeof(T) * kTilePixels * (channels + 1)));
    grads->feature_sums = static_cast<T*>(aligned_alloc(64, sizeof(T) * kLanes * (padded_channels(channels) + 8)));
#pragma omp for schedule(dynamic, 2)
    for (int t = 0; t < tiles; t++) walk_tile<kMode>(args, t, *grads);
    free(grads->features);
    free(grads->feature_sums);
    free(grads);
  }
}

template <class T>
void walk_image(const RasterBackwardArgs<T>& args) {
  const bool features = args.pair_features != nullptr && args.feature_map != nullptr;
  if (args.pair_grads == nullptr) {
    if (features) walk<kFeatures>(args);
  } else if (features) {
    args.absgrad ? walk<kGeometry | kFeatures | kAbsgrad>(args) : walk<kGeometry | kFeatures>(args);
  } else {
    args.absgrad ? walk<kGeometry | kAbsgrad>(args) : walk<kGeometry>(args);
  }
}

template <class T>
void sum_pair_features(const FeatureReduceArgs<T>& args) {
  const int channels = args.channels, padded = padded_channels(channels);
#pragma omp parallel for schedule(static) num_threads(args.threads)
  for (int64_t i = 0; i < args.n; i++) {
    T* out = args.features + i * channels;
    const uint32_t count = args.rects[i].count();
    if (count == 0) {
      memset(out, 0, sizeof(T) * channels);
      continue;
    }
    const T* pairs = args.pair_features + size_t(args.splats[i].slot) * padded;
    for (int c = 0; c < channels; c += kLanes) {
      Vec<T> sum = load(pairs + c);
      for (uint32_t k = 1; k < count; k++) sum += load(pairs + size_t(k) * padded + c);
      if (c + kLanes <= channels) {
        store(out + c, sum);
      } else {
        for (int l = 0; c + l < channels; l++) out[c + l] = sum[l];
      }
    }
  }
}

}  // namespace

void rasterize_backward_f32(const RasterBackwardArgs<float>& args) { walk_image(args); }
void rasterize_backward_f64(const RasterBackwardArgs<double>& args) { walk_image(args); }
void reduce_features_f32(const FeatureReduceArgs<float>& args) { sum_pair_features(args); }
void reduce_features_f64(const FeatureReduceArgs<double>& args) { sum_pair_features(args); }

}  // namespace splatseg::SPLATSEG_ISA
