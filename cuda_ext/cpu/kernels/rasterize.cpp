// Forward blending, tile by tile. Features go through a small queue a block, so that their sums stay in registers for
// several splats; color and depth are added at once.
#include "cpu/rasterize.h"

#include <stdlib.h>

#include "cpu/rasterize_tile.h"

namespace splatseg::SPLATSEG_ISA {
namespace {

constexpr int kQueue = 8;

// Weighted features waiting for a block's sums, and the sums: channel-major, [block][channel][pixel].
template <class T>
struct FeatureSums {
  alignas(64) T weights[kBlocks][kQueue][kBlockPixels];
  const T* rows[kBlocks][kQueue];
  int queued[kBlocks];
  T* sums;
  int channels;
};

template <int kChannels, class T>
SPLATSEG_INLINE void add_channels(FeatureSums<T>& f, int block, int channel) {
  typedef Vec<T> V;
  T* sums = f.sums + (size_t(block) * f.channels + channel) * kBlockPixels;
  V acc[kChannels][2];
  for (int c = 0; c < kChannels; c++)
    for (int h = 0; h < 2; h++) acc[c][h] = load(sums + c * kBlockPixels + h * kLanes);
  for (int q = 0; q < f.queued[block]; q++) {
    const V w0 = load(f.weights[block][q]), w1 = load(f.weights[block][q] + kLanes);
    const T* row = f.rows[block][q] + channel;
    for (int c = 0; c < kChannels; c++) {
      const V value = splat(row[c]);
      acc[c][0] += w0 * value;
      acc[c][1] += w1 * value;
    }
  }
  for (int c = 0; c < kChannels; c++)
    for (int h = 0; h < 2; h++) store(sums + c * kBlockPixels + h * kLanes, acc[c][h]);
}

template <class T>
__attribute__((noinline)) void flush(FeatureSums<T>& f, int block) {
  int channel = 0;
  for (; channel + 4 <= f.channels; channel += 4) add_channels<4>(f, block, channel);
  for (; channel < f.channels; channel++) add_channels<1>(f, block, channel);
  f.queued[block] = 0;
}

template <class T>
SPLATSEG_INLINE void enqueue(FeatureSums<T>& f, int block, const T* row, Vec<T> w0, Vec<T> w1) {
  const int q = f.queued[block]++;
  store(f.weights[block][q], w0);
  store(f.weights[block][q] + kLanes, w1);
  f.rows[block][q] = row;
  if (q + 1 == kQueue) flush(f, block);
}

// Adds one splat to one block of color sums, [block][r, g, b, depth][pixel]. Returns whether it reaches the block at all.
template <bool kFeatures, class T>
SPLATSEG_INLINE bool add_splat(const TileSplat<T>& s, const Splat<T>& record, Tile<T>& tile, size_t block, T* colors,
                               FeatureSums<T>* features, const T* feature_row) {
  typedef Vec<T> V;
  BlockHit<T> hit;
  if (!reach(s, tile, block, hit)) return false;
  T* sums = colors + block * 4 * kBlockPixels;
  Blend<T> blended[2];
  const bool closed = blend(hit, tile, block, blended);
  const V weight[2] = {blended[0].weight, blended[1].weight};
  for (int c = 0; c < 4; c++) {
    const V value = splat(c < 3 ? record.color[c] : record.depth);
    for (int h = 0; h < 2; h++) {
      T* at = sums + c * kBlockPixels + h * kLanes;
      store(at, load(at) + weight[h] * value);
    }
  }
  if (__builtin_expect(closed, 0)) close_block(tile, block);
  if constexpr (kFeatures) enqueue(*features, block, feature_row, weight[0], weight[1]);
  return true;
}

// From sums to values: colors over the background, transmittance to alpha, mean depth. Returns whether all are finite.
template <class T>
SPLATSEG_INLINE bool finish_blocks(const RasterArgs<T>& args, Tile<T>& tile, T* colors) {
  typedef Vec<T> V;
  V finite = {};
  for (int k = 0; k < kTilePixels; k += kLanes) {
    T* sums = colors + k / kBlockPixels * 4 * kBlockPixels + k % kBlockPixels;
    const V transmittance = load(tile.transmittance + k), alpha = T(1) - transmittance;
    for (int c = 0; c < 3; c++) {
      const V color = load(sums + c * kBlockPixels) + transmittance * args.background[c];
      store(sums + c * kBlockPixels, color);
      finite += color * T(0);
    }
    store(tile.transmittance + k, alpha);
    store(sums + 3 * kBlockPixels, keep(alpha > splat(T(0)), load(sums + 3 * kBlockPixels) / alpha));
  }
  return hsum(finite) == T(0);
}

// One row of `count` neighboring pixels of a block.
template <class T>
SPLATSEG_INLINE void write_row(const RasterArgs<T>& args, const T* sums, const T* alpha, int64_t pixel, int count) {
  for (int x = 0; x < count; x++)
    for (int c = 0; c < 3; c++) args.color[3 * (pixel + x) + c] = sums[c * kBlockPixels + x];
  memcpy(args.alpha + pixel, alpha, count * sizeof(T));
  memcpy(args.depth + pixel, sums + 3 * kBlockPixels, count * sizeof(T));
}

template <class T>
SPLATSEG_INLINE void write_tile(const RasterArgs<T>& args, const Tile<T>& tile, const T* colors) {
  for (int y = 0; y < tile.rows; y++) {
    for (int x = 0; x < tile.columns; x += 4) {
      const int block = y / 4 * 4 + x / 4, lane = y % 4 * 4, left = tile.columns - x;
      const T* sums = colors + block * 4 * kBlockPixels + lane;
      const T* alpha = tile.transmittance + block * kBlockPixels + lane;
      const int64_t pixel = int64_t(tile.y0 + y) * args.width + tile.x0 + x;
      left < 4 ? write_row(args, sums, alpha, pixel, left) : write_row(args, sums, alpha, pixel, 4);
    }
  }
}

template <class T>
SPLATSEG_INLINE bool write_features(const RasterArgs<T>& args, const Tile<T>& tile, const FeatureSums<T>& f) {
  for (int y = 0; y < tile.rows; y++) {
    for (int x = 0; x < tile.columns; x++) {
      const int block = y / 4 * 4 + x / 4, lane = y % 4 * 4 + x % 4;
      T* out = args.feature_map + (int64_t(tile.y0 + y) * args.width + tile.x0 + x) * f.channels;
      const T* sums = f.sums + size_t(block) * f.channels * kBlockPixels + lane;
      for (int c = 0; c < f.channels; c++) out[c] = sums[c * kBlockPixels];
    }
  }
  Vec<T> finite = {};  // pixels outside the image hold zeros
  for (size_t k = 0; k < size_t(kTilePixels) * f.channels; k += kLanes) finite += load(f.sums + k) * T(0);
  return !(hsum(finite) == T(0));
}

template <bool kFeatures, class T>
bool draw_tile(const RasterArgs<T>& args, int index, FeatureSums<T>* features) {
  Tile<T> tile(index, args.width, args.height);
  alignas(64) T colors[4 * kTilePixels];
  memset(colors, 0, sizeof colors);
  if constexpr (kFeatures) {
    memset(features->sums, 0, sizeof(T) * kTilePixels * args.channels);
    memset(features->queued, 0, sizeof features->queued);
  }
  const int32_t end = args.offsets[index + 1];
  int32_t k = args.offsets[index];
  for (; k < end && tile.open != 0; k++) {
    if (k + 8 < end) {
      __builtin_prefetch(args.splats + args.ids[k + 8]);
      if constexpr (kFeatures) __builtin_prefetch(args.features + int64_t(args.ids[k + 8]) * args.channels);
    }
    const int64_t id = args.ids[k];
    const Splat<T>& record = args.splats[id];
    const TileSplat<T> s(record, tile.x0, tile.y0);
    const T* row = kFeatures ? args.features + id * args.channels : nullptr;
    // One loop over a bit set: two nested ones cost a mispredicted branch a row.
    unsigned reached = 0;
    for (unsigned rest = s.blocks & tile.open; rest != 0; rest &= rest - 1) {
      const size_t block = __builtin_ctz(rest);
      reached |= unsigned(add_splat<kFeatures>(s, record, tile, block, colors, features, row)) << block;
    }
    args.blocks[k] = uint16_t(reached);
  }
  if (k < end) memset(args.blocks + k, 0, sizeof *args.blocks * size_t(end - k));  // behind the last open pixel
  const bool finite = finish_blocks(args, tile, colors);
  write_tile(args, tile, colors);
  if constexpr (kFeatures) {
    for (int block = 0; block < kBlocks; block++) flush(*features, block);
    return write_features(args, tile, *features);
  }
  return !finite;
}

template <bool kFeatures, class T>
bool draw(const RasterArgs<T>& args) {
  const int tiles = ((args.width + kTile - 1) / kTile) * ((args.height + kTile - 1) / kTile);
  bool bad = false;
#pragma omp parallel num_threads(args.threads) reduction(|| : bad)
  {
    FeatureSums<T>* features = nullptr;
    if constexpr (kFeatures) {
      features = static_cast<FeatureSums<T>*>(aligned_alloc(64, sizeof(FeatureSums<T>)));
      features->channels = args.channels;
      features->sums = static_cast<T*>(aligned_alloc(64, sizeof(T) * kTilePixels * size_t(args.channels)));
    }
#pragma omp for schedule(dynamic, 2)
    for (int t = 0; t < tiles; t++) bad = draw_tile<kFeatures>(args, t, features) || bad;
    if constexpr (kFeatures) {
      free(features->sums);
      free(features);
    }
  }
  return bad;
}

template <class T>
bool draw_image(const RasterArgs<T>& args) {
  return args.features != nullptr && args.channels > 0 ? draw<true>(args) : draw<false>(args);
}

}  // namespace

bool rasterize_f32(const RasterArgs<float>& args) { return draw_image(args); }
bool rasterize_f64(const RasterArgs<double>& args) { return draw_image(args); }

}  // namespace splatseg::SPLATSEG_ISA
