// L1 + D-SSIM of two images and its gradient. Mirrors splatseg/ops/reference/photometric.py; the formulas are those of
// cpu/kernels/photometric.cpp.
//
// A block takes a tile of one channel: blurs along the rows, then along the columns, in shared memory; a thread makes
// kStrip neighboring outputs, so that a value that is read serves several of them. The first kernel leaves three
// derivatives of SSIM for each pixel, and sums for each tile; the gradient is a blur of the derivatives (the window is
// even). Channels of a tile follow each other in the grid: they read the same interleaved bytes while the cache has them.
// Sums have a fixed order: the same bits on every run.
#pragma once
#include <math.h>

#include "cuda/device.cuh"

namespace splatseg::cuda {

constexpr int kTaps = 11, kReach = 5;  // of the window
constexpr int kStrip = 4;
constexpr int kTileWidth = kWarp, kHaloWidth = kTileWidth + 2 * kReach;
// Odd pitches: lanes that walk along a column meet no bank conflict.
constexpr int kHaloPitch = kHaloWidth + 1, kBlurPitch = kTileWidth + 1;
constexpr int kFinishThreads = 256;

// Lower tiles for float64, so that all of its shared memory, too, is had without asking for more than 48 KB.
template <class T>
struct PhotometricTile {
  static constexpr int kHeight = sizeof(T) == 4 ? 32 : 16, kHaloHeight = kHeight + 2 * kReach;
  static constexpr int kThreads = kTileWidth * kHeight / kStrip, kWarps = kThreads / kWarp;
  static constexpr int kHalo = kHaloHeight * kHaloPitch, kBlur = kHaloHeight * kBlurPitch;  // elements of one array
  static constexpr int64_t kCompareBytes = (2 * kHalo + 4 * kBlur) * sizeof(T) + 2 * kWarps * sizeof(double);
  static constexpr int64_t kGradientBytes = (3 * kHalo + 3 * kBlur) * sizeof(T);
  static_assert(kCompareBytes <= 48 * 1024 && kGradientBytes <= 48 * 1024);
};

constexpr int64_t kMaxElements = (int64_t)1 << 30;  // places beside the image, too, are computed in 32 bits

// Images are (height, width, channels), interleaved, of 1 to kMaxElements elements.
template <class T>
struct PhotometricTask {
  int height, width, channels;
  bool target_is_uint8;
  double ssim_weight;
  const T* image;
  const void* target;  // T, or uint8 standing for value / 255
  T* loss;
  T* grad;         // like the image; null where no gradient is wanted
  T* derivatives;  // scratch with a gradient: 3 maps (channels, height, width) of SSIM by its window means
  double* sums;    // scratch (tiles, 2): sums of |image - target| and of SSIM
  // Filled by the launch.
  int columns, tiles;  // tiles side by side; all tiles
  T window[kTaps];
};

template <class T>
int64_t photometric_tiles(const PhotometricTask<T>& t) {
  constexpr int kHeight = PhotometricTile<T>::kHeight;
  const int64_t columns = (t.width + (int64_t)kTileWidth - 1) / kTileWidth;
  return columns * ((t.height + (int64_t)kHeight - 1) / kHeight) * t.channels;
}

// Corner of the block's tile, and its channel.
struct TilePlace {
  int x, y, channel;
};

template <class T>
__device__ inline TilePlace tile_place(const PhotometricTask<T>& t) {
  const int tile = (int)blockIdx.x / t.channels;
  return {tile % t.columns * kTileWidth, tile / t.columns * PhotometricTile<T>::kHeight, (int)blockIdx.x % t.channels};
}

template <class T>
__device__ inline T target_at(const PhotometricTask<T>& t, int element) {
  if (t.target_is_uint8) return (T)((const uint8_t*)t.target)[element] / (T)255;
  return ((const T*)t.target)[element];
}

// use(slot, inside, x, y) for every pixel of the tile and the kReach around it; `slot` in arrays of kHaloPitch.
template <class T, class Use>
__device__ inline void for_halo(const PhotometricTask<T>& t, const TilePlace& place, const Use& use) {
  for (int i = threadIdx.x; i < PhotometricTile<T>::kHaloHeight * kHaloWidth; i += PhotometricTile<T>::kThreads) {
    const int row = i / kHaloWidth, column = i % kHaloWidth;
    const int x = place.x + column - kReach, y = place.y + row - kReach;
    use(row * kHaloPitch + column, x >= 0 && x < t.width && y >= 0 && y < t.height, x, y);
  }
}

// sum[q][o] = sum over taps k of window[k] * value q at o + k; read(i, value) gives the Q values at i.
template <int Q, class T, class Read>
__device__ inline void blur_strip(const T* window, T (&sum)[Q][kStrip], const Read& read) {
#pragma unroll
  for (int q = 0; q < Q; q++) {
#pragma unroll
    for (int o = 0; o < kStrip; o++) sum[q][o] = 0;
  }
#pragma unroll
  for (int i = 0; i < kStrip + kTaps - 1; i++) {
    T value[Q];
    read(i, value);
#pragma unroll
    for (int o = 0; o < kStrip; o++) {
      if (i < o || i >= o + kTaps) continue;
#pragma unroll
      for (int q = 0; q < Q; q++) sum[q][o] += window[i - o] * value[q];
    }
  }
}

// Blurs along the rows into Q arrays of kBlur; read(slot, value) gives the Q values at a slot of the halo.
template <int Q, class T, class Read>
__device__ inline void blur_rows(const PhotometricTask<T>& t, T* blurred, const Read& read) {
  using Tile = PhotometricTile<T>;
  for (int i = threadIdx.x; i < Tile::kHaloHeight * (kTileWidth / kStrip); i += Tile::kThreads) {
    const int row = i % Tile::kHaloHeight, column = i / Tile::kHaloHeight * kStrip;
    T sum[Q][kStrip];
    blur_strip<Q>(t.window, sum, [&](int k, T* value) { read(row * kHaloPitch + column + k, value); });
#pragma unroll
    for (int q = 0; q < Q; q++) {
#pragma unroll
      for (int o = 0; o < kStrip; o++) blurred[q * Tile::kBlur + row * kBlurPitch + column + o] = sum[q][o];
    }
  }
}

// Blurs along the columns what blur_rows left: the thread's lane is the column, `row` its first row in the tile.
template <int Q, class T>
__device__ inline void blur_columns(const PhotometricTask<T>& t, const T* blurred, int row, T (&sum)[Q][kStrip]) {
  const T* own = blurred + row * kBlurPitch + threadIdx.x % kWarp;
  blur_strip<Q>(t.window, sum, [&](int k, T* value) {
#pragma unroll
    for (int q = 0; q < Q; q++) value[q] = own[q * PhotometricTile<T>::kBlur + k * kBlurPitch];
  });
}

// SSIM and its derivatives by the window means (of x; of x^2 + y^2; of x y); `m` are the means of x, y and these two.
template <class T>
__device__ inline T ssim_of(const T (&m)[4], T (&derivative)[3]) {
  constexpr T kC1 = (T)(0.01 * 0.01), kC2 = (T)(0.03 * 0.03);
  const T both = m[0] * m[1], squares = m[0] * m[0] + m[1] * m[1];
  const T a1 = 2 * both + kC1, a2 = 2 * (m[3] - both) + kC2;
  const T b1 = squares + kC1, b2 = (m[2] - squares) + kC2;
  const T inverse = 1 / (b1 * b2), ssim = a1 * a2 * inverse, by_squares = -ssim * b1 * inverse;
  derivative[0] = 2 * (m[1] * (a2 - a1) * inverse - m[0] * (ssim * b2 * inverse + by_squares));
  derivative[1] = by_squares;
  derivative[2] = 2 * a1 * inverse;
  return ssim;
}

// Thread 0 has the sum over the block, in a fixed order; `scratch` holds one entry a warp. Every thread must call.
__device__ inline double block_sum(double x, double* scratch) {
  const double sum = warp_sum(x);
  if (threadIdx.x % kWarp == 0) scratch[threadIdx.x / kWarp] = sum;
  __syncthreads();
  double total = 0;
  for (int w = 0; threadIdx.x == 0 && w < (int)blockDim.x / kWarp; w++) total += scratch[w];
  return total;
}

template <class T>
__global__ void __launch_bounds__(PhotometricTile<T>::kThreads) compare_tiles(PhotometricTask<T> t) {
  using Tile = PhotometricTile<T>;
  double* scratch = reinterpret_cast<double*>(dynamic_shared());
  T *image = reinterpret_cast<T*>(scratch + 2 * Tile::kWarps), *target = image + Tile::kHalo, *blurred = target + Tile::kHalo;
  const TilePlace place = tile_place(t);
  for_halo(t, place, [&](int slot, bool inside, int x, int y) {
    const int element = inside ? (y * t.width + x) * t.channels + place.channel : 0;
    image[slot] = inside ? t.image[element] : (T)0;
    target[slot] = inside ? target_at(t, element) : (T)0;
  });
  __syncthreads();
  blur_rows<4>(t, blurred, [&](int slot, T* value) {
    const T x = image[slot], y = target[slot];
    value[0] = x;
    value[1] = y;
    value[2] = x * x + y * y;
    value[3] = x * y;
  });
  __syncthreads();
  const int first = threadIdx.x / kWarp * kStrip, column = threadIdx.x % kWarp, x = place.x + column;
  T mean[4][kStrip], l1 = 0, similarity = 0;
  blur_columns(t, blurred, first, mean);
  const int64_t map = (int64_t)t.channels * t.height * t.width;
#pragma unroll
  for (int o = 0; o < kStrip; o++) {
    const int y = place.y + first + o;
    if (x >= t.width || y >= t.height) continue;
    T derivative[3];
    similarity += ssim_of<T>({mean[0][o], mean[1][o], mean[2][o], mean[3][o]}, derivative);
    const int slot = (first + o + kReach) * kHaloPitch + column + kReach;
    const T difference = image[slot] - target[slot];
    l1 += difference < 0 ? -difference : difference;
    if (!t.grad) continue;
    T* own = t.derivatives + (place.channel * t.height + y) * t.width + x;
#pragma unroll
    for (int q = 0; q < 3; q++) own[q * map] = derivative[q];
  }
  const double total_l1 = block_sum(l1, scratch), total_ssim = block_sum(similarity, scratch + Tile::kWarps);
  if (threadIdx.x != 0) return;
  t.sums[2 * (int64_t)blockIdx.x] = total_l1;
  t.sums[2 * (int64_t)blockIdx.x + 1] = total_ssim;
}

// d loss / d x_j = sum_i window(i - j) (dS_i/dmean + 2 x_j dS_i/dsquares + y_j dS_i/dproduct).
template <class T>
__global__ void __launch_bounds__(PhotometricTile<T>::kThreads) gradient_tiles(PhotometricTask<T> t) {
  using Tile = PhotometricTile<T>;
  T *halo = reinterpret_cast<T*>(dynamic_shared()), *blurred = halo + 3 * Tile::kHalo;
  const TilePlace place = tile_place(t);
  const int64_t map = (int64_t)t.channels * t.height * t.width;
  for_halo(t, place, [&](int slot, bool inside, int x, int y) {
    const T* own = t.derivatives + ((int64_t)place.channel * t.height + y) * t.width + x;
#pragma unroll
    for (int q = 0; q < 3; q++) halo[q * Tile::kHalo + slot] = inside ? own[q * map] : (T)0;
  });
  __syncthreads();
  blur_rows<3>(t, blurred, [&](int slot, T* value) {
#pragma unroll
    for (int q = 0; q < 3; q++) value[q] = halo[q * Tile::kHalo + slot];
  });
  __syncthreads();
  const int first = threadIdx.x / kWarp * kStrip, x = place.x + threadIdx.x % kWarp;
  T sum[3][kStrip];
  blur_columns(t, blurred, first, sum);
  const T scale = (T)(1 / (double)map), l1_scale = (T)(1 - t.ssim_weight) * scale, ssim_scale = (T)t.ssim_weight * scale;
#pragma unroll
  for (int o = 0; o < kStrip; o++) {
    const int y = place.y + first + o;
    if (x >= t.width || y >= t.height) continue;
    const int element = (y * t.width + x) * t.channels + place.channel;
    const T own = t.image[element], other = target_at(t, element);
    const T sign = (T)((own > other) - (own < other));
    t.grad[element] = sign * l1_scale - (sum[0][o] + own * 2 * sum[1][o] + other * sum[2][o]) * ssim_scale;
  }
}

// One block: the tiles' sums become the loss.
template <class T>
__global__ void __launch_bounds__(kFinishThreads) finish_loss(PhotometricTask<T> t) {
  double* scratch = reinterpret_cast<double*>(dynamic_shared());
  double l1 = 0, similarity = 0;
  for (int i = threadIdx.x; i < t.tiles; i += kFinishThreads) {
    l1 += t.sums[2 * (int64_t)i];
    similarity += t.sums[2 * (int64_t)i + 1];
  }
  l1 = block_sum(l1, scratch);
  similarity = block_sum(similarity, scratch + kFinishThreads / kWarp);
  const double count = (double)t.height * t.width * t.channels;
  if (threadIdx.x == 0) *t.loss = (T)((1 - t.ssim_weight) * (l1 / count) + t.ssim_weight * (1 - similarity / count));
}

// exp(-(k - 5)^2 / (2 * 1.5^2)), normalized to sum 1.
template <class T>
void fill_window(T* window) {
  double weights[kTaps], sum = 0;
  for (int k = 0; k < kTaps; k++) sum += weights[k] = exp((k - kReach) * (k - kReach) / (-2 * 1.5 * 1.5));
  for (int k = 0; k < kTaps; k++) window[k] = (T)(weights[k] / sum);
}

template <class T>
void launch_photometric(PhotometricTask<T> t, const Stream& stream) {
  using Tile = PhotometricTile<T>;
  t.columns = (int)((t.width + (int64_t)kTileWidth - 1) / kTileWidth);
  t.tiles = (int)photometric_tiles(t);
  fill_window(t.window);
  stream.launch(compare_tiles<T>, t.tiles, Tile::kThreads, Tile::kCompareBytes, t);
  stream.launch(finish_loss<T>, 1, kFinishThreads, 2 * kFinishThreads / kWarp * (int64_t)sizeof(double), t);
  if (t.grad) stream.launch(gradient_tiles<T>, t.tiles, Tile::kThreads, Tile::kGradientBytes, t);
}

#ifdef SPLATSEG_INSTANTIATE  // for compile_check.py
template __global__ void compare_tiles<float>(PhotometricTask<float>);
template __global__ void compare_tiles<double>(PhotometricTask<double>);
template __global__ void gradient_tiles<float>(PhotometricTask<float>);
template __global__ void gradient_tiles<double>(PhotometricTask<double>);
template __global__ void finish_loss<float>(PhotometricTask<float>);
template __global__ void finish_loss<double>(PhotometricTask<double>);
#endif

}  // namespace splatseg::cuda
