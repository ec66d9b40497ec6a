// The matrix products of the loss: a block holds 64 samples of one anchor and 64 patches at a time, in shared memory, in
// slices of 32 columns, and every thread a small tile of the product, in registers.
#pragma once
#include "cuda/loss_prepare.cuh"

namespace splatseg::cuda {

// Four values that are loaded and stored together; rows start at multiples of 16 bytes.
template <class T>
struct alignas(16) Four {
  T value[4];
};

// Adds a tile's part of four neighboring cells.
template <class T, class Sum>
__device__ void add_four(typename Sum::Cell* cells, const T* x) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  if constexpr (std::is_same_v<Sum, FastSum<float>>) {
    atomicAdd(reinterpret_cast<float4*>(cells), make_float4(x[0], x[1], x[2], x[3]));
  } else
#endif
  {
#pragma unroll
    for (int v = 0; v < 4; v++) Sum::add(cells + v, x[v]);
  }
}

constexpr int kSlice = 32;       // columns of f^ and of means held at a time
constexpr int kPitch = 36;       // of rows of columns; odd in units of 16 bytes against bank conflicts
constexpr int kGradPitch = 68;   // of rows of samples, likewise
constexpr int kLaneSamples = 2;  // a lane's tile of the logits
constexpr int kLanePatches = 8;

// Shared memory of one block, with `held` rows of means. A chunk's patch of position 8 a + b lies in row 8 b + a: a lane's eight
// patches are then neighbors in `related`, while eight lanes read eight rows in a row.
template <class T>
struct LossShared {
  T* unit;        // (64, 36) f^ of the samples
  T* mean;        // (held, 36) means of the patches
  T* logit_grad;  // (64, 68) [patch][sample]
  T* total;       // (8,) each warp's part of the loss, base 2
  T* lse;         // (64,) of each sample; from here on, what a Walk holds
  T* running;     // (64,)
  T* top;         // (64,)
  int* carrier;   // (64,)
  int* top_at;    // (64,)
  int* patch;     // (256,) number of each row's patch, or -1
  LossTile* tile;

  static constexpr int64_t bytes(int held) {
    constexpr int values = kLossSamples * kPitch + kLossRows * kGradPitch + kLossWarps + 3 * kLossSamples;
    return (values + held * kPitch) * (int64_t)sizeof(T) + (2 * kLossSamples + kLossHeld) * (int64_t)sizeof(int) +
           (int64_t)sizeof(LossTile);
  }
  // Rows of means to hold where there are up to k_max patches of d channels: all of them if they fit and are one slice.
  static int rows(int k_max, int d) {
    const int all = (k_max + kLossRows - 1) / kLossRows * kLossRows;
    return d <= kSlice && all > kLossRows && all <= kLossHeld && bytes(all) <= kSharedLimit ? all : kLossRows;
  }
  __device__ LossShared() {
    unit = reinterpret_cast<T*>(dynamic_shared());
    logit_grad = unit + kLossSamples * kPitch;
    total = logit_grad + kLossRows * kGradPitch;
    lse = total + kLossWarps;
    running = lse + kLossSamples;
    top = running + kLossSamples;
    carrier = reinterpret_cast<int*>(top + kLossSamples);
    top_at = carrier + kLossSamples;
    patch = top_at + kLossSamples;
    tile = reinterpret_cast<LossTile*>(patch + kLossHeld);
    mean = reinterpret_cast<T*>(tile + 1);  // last, so that all others have a fixed place
  }
};

__device__ inline int position_of_row(int row) { return row / kLossRows * kLossRows + row % 8 * 8 + row % kLossRows / 8; }

// The products of one block. W is the width of a slice where the compiler knows it - d itself, or 32 for a multiple of it -
// and else 0.
template <class T, int W, class Sum>
struct TileProducts {
  const LossTask<T>& t;
  LossShared<T> s;
  const LossTile& tile;
  int lane, warp;

  __device__ TileProducts(const LossTask<T>& t)
      : t(t), tile(*s.tile), lane(threadIdx.x % kWarp), warp(threadIdx.x / kWarp) {
    if (threadIdx.x == 0) *s.tile = t.tiles()[blockIdx.x];
    __syncthreads();
  }

  __device__ int slices() const { return W > 0 && W < kSlice ? 1 : (t.d + kSlice - 1) / kSlice; }
  // Columns of a slice, rounded up to four; those beyond d are 0.
  __device__ int width(int slice) const { return W > 0 ? W : (min(kSlice, t.d - slice * kSlice) + 3) / 4 * 4; }
  // A lane's samples and positions within tile and chunk.
  __device__ int first_sample() const { return warp * kWarpSamples + lane / 8 * kLaneSamples; }
  __device__ int first_position() const { return lane % 8 * kLanePatches; }

  // Whether all means are in shared memory from the beginning on; else a chunk's at a time.
  __device__ bool holds_all() const { return t.held > kLossRows; }
  // First row of a chunk's means.
  __device__ int first_row(int first) const { return holds_all() ? first : 0; }

  // `rows` rows of (.., d) values into shared memory; row_of(i) < 0 gives zeros.
  template <class Row>
  __device__ void load(T* to, const T* from, int slice, int rows, const Row& row_of) const {
    const int columns = width(slice), packs = columns / 4;
#pragma unroll 1
    for (int cell = threadIdx.x; cell < rows * packs; cell += kLossThreads) {
      const int row = cell / packs, c = cell % packs * 4;
      const int64_t source = row_of(row), at = source * t.d + slice * kSlice + c;
      Four<T> values = {};
      if constexpr (W > 0) {
        if (source >= 0) values = *reinterpret_cast<const Four<T>*>(from + at);
      } else {
        for (int v = 0; v < 4; v++) values.value[v] = source >= 0 && slice * kSlice + c + v < t.d ? from[at + v] : T(0);
      }
      *reinterpret_cast<Four<T>*>(to + row * kPitch + c) = values;
    }
  }
  __device__ void load_units(int slice) const {
    load(s.unit, t.unit, slice, kLossSamples, [this](int row) { return row < tile.samples ? (int64_t)tile.begin + row : -1; });
  }
  // Means of the patches related[first ..).
  __device__ void load_means(int first, int slice) const {
    const uint16_t* related = t.related(tile.anchor);
    const int left = t.counts().kept - first;
    const auto patch = [=](int row) { return position_of_row(row) < left ? related[first + position_of_row(row)] : -1; };
    load(s.mean, t.mean, slice, kLossRows, [=](int row) { return (int64_t)patch(row); });
    if (threadIdx.x < kLossRows) s.patch[threadIdx.x] = patch(threadIdx.x);
  }
  // What stays for all chunks. The block meets before it is read.
  __device__ void load_all() const {
    const int k = t.counts().kept, row = threadIdx.x, position = position_of_row(row);
    static_assert(kLossHeld <= kLossThreads);
    if (holds_all()) s.patch[row] = position < k ? t.related(tile.anchor)[position] : -1;
    if (slices() == 1) load_units(0);
    __syncthreads();
    if (!holds_all()) return;
    load(s.mean, t.mean, 0, (k + kLossRows - 1) / kLossRows * kLossRows, [this](int r) { return (int64_t)s.patch[r]; });
    __syncthreads();
  }

  // Logits of the patches related[first ..) for this lane's samples. Every thread must call, after load_all().
  __device__ void logits(int first, T (&out)[kLaneSamples][kLanePatches]) const {
    for (int slice = 0; slice < slices(); slice++) {
      if (!holds_all()) {
        __syncthreads();  // the last ones are read
        if (slices() > 1) load_units(slice);
        load_means(first, slice);
        __syncthreads();
      }
      if (slice == 0) {
#pragma unroll
        for (int i = 0; i < kLaneSamples; i++) {
#pragma unroll
          for (int j = 0; j < kLanePatches; j++) out[i][j] = 0;
        }
      }
      if (warp * kWarpSamples < tile.samples) add_logits(slice, first_row(first), out);
    }
  }
  __device__ void add_logits(int slice, int row, T (&out)[kLaneSamples][kLanePatches]) const {
    const T *unit = s.unit + first_sample() * kPitch, *mean = s.mean + (row + lane % 8) * kPitch;
    const int columns = width(slice);
#pragma unroll 1
    for (int c = 0; c < (W > 0 ? W : columns); c += 4) {
      Four<T> own[kLaneSamples];
#pragma unroll
      for (int i = 0; i < kLaneSamples; i++) own[i] = *reinterpret_cast<const Four<T>*>(unit + i * kPitch + c);
#pragma unroll
      for (int j = 0; j < kLanePatches; j++) {
        const auto other = *reinterpret_cast<const Four<T>*>(mean + j * 8 * kPitch + c);
#pragma unroll
        for (int i = 0; i < kLaneSamples; i++) {
#pragma unroll
          for (int v = 0; v < 4; v++) out[i][j] += own[i].value[v] * other.value[v];
        }
      }
    }
  }

  // Hands this lane's gradient of the logits to the block. Lanes of warps without samples have zeros.
  __device__ void store(const T (&grad)[kLaneSamples][kLanePatches]) const {
#pragma unroll
    for (int j = 0; j < kLanePatches; j++) {
      Pack<T, kLaneSamples> pair;
#pragma unroll
      for (int i = 0; i < kLaneSamples; i++) pair.value[i] = grad[i][j];
      T* row = s.logit_grad + (j * 8 + lane % 8) * kGradPitch;
      *reinterpret_cast<Pack<T, kLaneSamples>*>(row + first_sample()) = pair;
    }
  }

  // Carries logit_grad of the chunk `first` to samples and means, a tile of 4 x 4 cells a thread; half the threads for each.
  // Every output has one thread and a fixed order of addition; only the sum over blocks, Sum, may differ in order.
  __device__ void spread(int first) const {
    // Idle warps of neighboring blocks sit on different schedulers.
    const int rotated = (threadIdx.x + ((blockIdx.x ^ blockIdx.x >> 2) & 3) * 64) % kLossThreads;
    __syncthreads();  // logit_grad is stored
    for (int slice = 0; slice < slices(); slice++) {
      const int groups = width(slice) / 4;
      if (slices() > 1) {
        load_units(slice);
        load_means(first, slice);
        __syncthreads();
      }
      const int column = rotated % groups * 4, group = rotated / groups;
      if (group < 16) {
        spread_to_samples(first, slice, group, column);
      } else if (group < 32) {
        spread_to_means(first, slice, group - 16, column);
      }
      if (slices() > 1) __syncthreads();
    }
  }
  __device__ void spread_to_samples(int first, int slice, int group, int column) const {
    if (group * 4 >= tile.samples) return;
    T sum[4][4] = {};
    const int rows = min(t.counts().kept - first, kLossRows);
    const T *grad = s.logit_grad + group * 4, *mean = s.mean + first_row(first) * kPitch + column;
    // Positions 0 .. rows fill the first (rows + 7) / 8 of each eight rows.
    const int used = (rows + kLanePatches - 1) / kLanePatches;
    for (int a = 0; a < used; a++) {
#pragma unroll 2
      for (int b = 0; b < 8; b++) {
        const auto own = *reinterpret_cast<const Four<T>*>(grad + (b * 8 + a) * kGradPitch);
        const auto other = *reinterpret_cast<const Four<T>*>(mean + (b * 8 + a) * kPitch);
#pragma unroll
        for (int i = 0; i < 4; i++) {
#pragma unroll
          for (int v = 0; v < 4; v++) sum[i][v] += own.value[i] * other.value[v];
        }
      }
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
      if (group * 4 + i < tile.samples) add_to_sample(group * 4 + i, slice * kSlice + column, first > 0, sum[i]);
    }
  }
  __device__ void add_to_sample(int sample, int column, bool more, const T (&x)[4]) const {
    T* at = t.unit_grad + (int64_t)(tile.begin + sample) * t.d + column;
    if constexpr (W > 0) {
      Four<T> sum = {};
      if (more) sum = *reinterpret_cast<const Four<T>*>(at);
#pragma unroll
      for (int v = 0; v < 4; v++) sum.value[v] += x[v];
      *reinterpret_cast<Four<T>*>(at) = sum;
    } else {
#pragma unroll
      for (int v = 0; v < 4; v++) {
        if (column + v < t.d) at[v] = (more ? at[v] : T(0)) + x[v];
      }
    }
  }
  __device__ void spread_to_means(int first, int slice, int group, int column) const {
    T sum[4][4] = {};
    const T *grad = s.logit_grad + group * kGradPitch, *unit = s.unit + column;
    const int samples = (tile.samples + 3) / 4 * 4;
#pragma unroll 1
    for (int sample = 0; sample < samples; sample += 2) {
      Pack<T, 2> own[4];
#pragma unroll
      for (int i = 0; i < 4; i++) own[i] = *reinterpret_cast<const Pack<T, 2>*>(grad + i * 16 * kGradPitch + sample);
#pragma unroll
      for (int w = 0; w < 2; w++) {
        const auto other = *reinterpret_cast<const Four<T>*>(unit + (sample + w) * kPitch);
#pragma unroll
        for (int i = 0; i < 4; i++) {
#pragma unroll
          for (int v = 0; v < 4; v++) sum[i][v] += own[i].value[w] * other.value[v];
        }
      }
    }
    auto* cells = static_cast<typename Sum::Cell*>(t.mean_grad);
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const int patch = s.patch[first_row(first) + group + i * 16], c = slice * kSlice + column;
      if (patch < 0) continue;
      if constexpr (W > 0) {
        add_four<T, Sum>(cells + (int64_t)patch * t.d + c, sum[i]);
      } else {
#pragma unroll
        for (int v = 0; v < 4; v++) {
          if (c + v < t.d) Sum::add(cells + (int64_t)patch * t.d + c + v, sum[i][v]);
        }
      }
    }
  }

  // Gives grad[i] times each of this warp's samples to the mean of patch[i], and back: terms of a patch of an earlier chunk.
  // Lanes of one sample agree. Neighboring samples with one patch are added up first. Whole warps only.
  __device__ void spread_outside(const T (&grad)[kLaneSamples], const int (&patch)[kLaneSamples]) const {
    auto* cells = static_cast<typename Sum::Cell*>(t.mean_grad);
    for (int column = 0; column < t.d; column += kWarp) {
      const int c = column + lane;
      T sum = 0;
      for (int sample = 0; sample < kWarpSamples; sample++) {
        const int from = sample / kLaneSamples * 8, next = min(sample + 1, kWarpSamples - 1) / kLaneSamples * 8;
        const T even = __shfl_sync(kFullWarp, grad[0], from), odd = __shfl_sync(kFullWarp, grad[1], from);
        const int own = __shfl_sync(kFullWarp, sample % 2 ? patch[1] : patch[0], from);
        const int other = __shfl_sync(kFullWarp, sample % 2 ? patch[0] : patch[1], next);
        const T x = sample % 2 ? odd : even;
        if (x != 0 && c < t.d) {
          const int64_t at = (int64_t)(tile.begin + warp * kWarpSamples + sample) * t.d + c;
          sum += x * t.unit[at];
          t.unit_grad[at] += x * t.mean[(int64_t)own * t.d + c];
        }
        if ((sample + 1 < kWarpSamples && other == own) || sum == 0) continue;
        Sum::add(cells + (int64_t)own * t.d + c, sum);
        sum = 0;
      }
    }
  }
};

}  // namespace splatseg::cuda
