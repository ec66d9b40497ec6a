// Front-to-back alpha blending of tile lists into an image, and its gradient. ATen-free.
#pragma once

#include <cstdint>

#include "cpu/project.h"

namespace splatseg {

template <class T>
struct RasterArgs {
  int width, height;
  const Splat<T>* splats;
  const int32_t* offsets;  // (tiles + 1)
  const int32_t* ids;      // (pairs) front to back in each tile
  const T* features;       // (n, channels) or null
  int channels;
  T background[3];
  T* color;                // (height, width, 3) outputs of the forward; inputs of the backward
  T* alpha;                // (height, width) 1 - transmittance
  T* depth;                // (height, width) sum(w z) / sum(w), 0 where alpha is 0
  T* feature_map;          // (height, width, channels) or null
  uint16_t* blocks;        // (pairs) bit b: it is drawn in 4x4 block b of the tile. The forward finds out, the backward reads
  int threads;
};

template <class T>
struct RasterBackwardArgs {
  RasterArgs<T> forward;
  const T* color;          // gradients of the outputs; null: zero
  const T* alpha;
  const T* depth;
  const T* feature_map;
  T* pair_grads;           // (pairs, kPairGrads), 64-byte aligned; null: geometry and colors need no gradient
  T* pair_features;        // (pairs, padded_channels), 64-byte aligned; null: features need none
  bool absgrad;
};

// Row length of per-pair feature gradients.
constexpr int padded_channels(int channels) { return (channels + 7) / 8 * 8; }

template <class T>
struct FeatureReduceArgs {
  int64_t n;
  int channels;
  const Splat<T>* splats;
  const TileRect* rects;
  const T* pair_features;
  T* features;             // (n, channels), every entry written
  int threads;
};

}  // namespace splatseg

// Returns whether the feature map (or else the color) holds a NaN or an infinity.
SPLATSEG_KERNEL(bool, rasterize_f32, (const RasterArgs<float>& args))
SPLATSEG_KERNEL(bool, rasterize_f64, (const RasterArgs<double>& args))
// Each pair's gradients go into its own slot, so nothing is added concurrently: the same sums for any number of threads.
SPLATSEG_KERNEL(void, rasterize_backward_f32, (const RasterBackwardArgs<float>& args))
SPLATSEG_KERNEL(void, rasterize_backward_f64, (const RasterBackwardArgs<double>& args))
SPLATSEG_KERNEL(void, reduce_features_f32, (const FeatureReduceArgs<float>& args))
SPLATSEG_KERNEL(void, reduce_features_f64, (const FeatureReduceArgs<double>& args))

namespace splatseg {
inline bool rasterize(const RasterArgs<float>& args) { return SPLATSEG_PICK(rasterize_f32)(args); }
inline bool rasterize(const RasterArgs<double>& args) { return SPLATSEG_PICK(rasterize_f64)(args); }
inline void rasterize_backward(const RasterBackwardArgs<float>& args) { SPLATSEG_PICK(rasterize_backward_f32)(args); }
inline void rasterize_backward(const RasterBackwardArgs<double>& args) { SPLATSEG_PICK(rasterize_backward_f64)(args); }
inline void reduce_features(const FeatureReduceArgs<float>& args) { SPLATSEG_PICK(reduce_features_f32)(args); }
inline void reduce_features(const FeatureReduceArgs<double>& args) { SPLATSEG_PICK(reduce_features_f64)(args); }
}  // namespace splatseg
