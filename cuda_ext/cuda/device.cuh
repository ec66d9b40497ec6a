// What ATen-free kernels need from their platform: nvcc, or the host emulator of tests/cuda_emulator (g++).
#pragma once
#include <stdint.h>

#include <type_traits>

#ifdef __CUDACC__
#include <cuda_runtime.h>

namespace splatseg::cuda {

__device__ inline unsigned char* dynamic_shared() {
  extern __shared__ __align__(16) unsigned char splatseg_dynamic_shared[];
  return splatseg_dynamic_shared;
}

// Launches on one stream. Errors stay with the runtime: the caller asks for the last one after its last launch.
struct Stream {
  cudaStream_t stream;

  template <class Kernel, class Task>
  void launch(Kernel* kernel, int64_t blocks, int threads, int64_t shared_bytes, const Task& task) const {
    constexpr int64_t kWithoutAsking = 48 * 1024;
    if (shared_bytes > kWithoutAsking) {
      const auto code = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared_bytes);
      if (code != cudaSuccess) return;  // it stays the last error, which the caller asks for
    }
    kernel<<<(unsigned)blocks, threads, (size_t)shared_bytes, stream>>>(task);
  }
  void clear(void* data, int64_t bytes) const { cudaMemsetAsync(data, 0, (size_t)bytes, stream); }
};

}  // namespace splatseg::cuda
#else
#include "cuda_emulator.h"

namespace splatseg::cuda {
inline unsigned char* dynamic_shared() { return cuda_emulator::dynamic_shared(); }
using Stream = cuda_emulator::Stream;
}  // namespace splatseg::cuda
#endif

namespace splatseg::cuda {

#ifdef __CUDA_ARCH__
__device__ inline float fast_exp(float x) { return __expf(x); }  // as gsplat's rasterizer
#else
__host__ __device__ inline float fast_exp(float x) { return expf(x); }
#endif

// Values that are loaded and stored with one instruction.
template <class T, int N>
struct alignas(N * sizeof(T)) Pack {
  T value[N];
};

constexpr int kWarp = 32;
// Largest dynamic shared memory that every supported device (sm_80 and later) grants a block: that of sm_86 and sm_89.
constexpr int64_t kSharedLimit = 99 * 1024;
constexpr unsigned kFullWarp = 0xffffffffu;

template <class T>
__device__ inline T warp_sum(T x) {
  for (int step = kWarp / 2; step > 0; step /= 2) x += __shfl_xor_sync(kFullWarp, x, step);
  return x;
}

template <class T>
__device__ inline T warp_max(T x) {
  for (int step = kWarp / 2; step > 0; step /= 2) {
    const T other = __shfl_xor_sync(kFullWarp, x, step);
    x = other > x ? other : x;
  }
  return x;
}

// Sum over the block of everything that threads before this one pass in; `total` is the whole sum. `scratch` holds one
// entry a warp, plus one; whole warps only; every thread must call.
__device__ inline int block_exclusive_scan(int x, int* scratch, int& total) {
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, warps = blockDim.x / kWarp;
  int sum = x;
  for (int step = 1; step < kWarp; step *= 2) {
    const int other = __shfl_up_sync(kFullWarp, sum, step);
    if (lane >= step) sum += other;
  }
  if (lane == kWarp - 1) scratch[warp] = sum;
  __syncthreads();
  if (threadIdx.x == 0) {
    int running = 0;
    for (int w = 0; w < warps; w++) {
      const int own = scratch[w];
      scratch[w] = running;
      running += own;
    }
    scratch[warps] = running;
  }
  __syncthreads();
  total = scratch[warps];
  const int before = scratch[warp] + sum - x;
  __syncthreads();  // scratch may be used again
  return before;
}

// Adds up a gradient that many blocks contribute to. Fast: atomic additions in the order of arrival.
template <class T>
struct FastSum {
  using Cell = T;
  __device__ static void add(Cell* cell, T x) { atomicAdd(cell, x); }
  __device__ static T value(Cell cell) { return cell; }
};

// Ordered by construction: integer addition is associative, so every order of arrival gives the same bits. Range +-2^27,
// step 2^-36.
template <class T>
struct ExactSum {
  using Cell = unsigned long long;
  __device__ static void add(Cell* cell, T x) { atomicAdd(cell, (Cell)(long long)rint((double)x * 68719476736.0)); }
  __device__ static T value(Cell cell) { return (T)((double)(long long)cell / 68719476736.0); }
};

// For rows of d values that groups of L lanes hold, V a lane and load: calls use(V, L) with the widest load that d allows,
// 16 bytes where rows stay aligned to them, else single values.
template <class T, class Use>
void with_row_layout(int64_t d, const Use& use) {
  constexpr int kWide = 16 / (int)sizeof(T);
  if (d % kWide) return use(std::integral_constant<int, 1>(), std::integral_constant<int, kWarp>());
  const int64_t packs = d / kWide;
  if (packs <= 2) return use(std::integral_constant<int, kWide>(), std::integral_constant<int, 2>());
  if (packs <= 4) return use(std::integral_constant<int, kWide>(), std::integral_constant<int, 4>());
  return use(std::integral_constant<int, kWide>(), std::integral_constant<int, 8>());
}

}  // namespace splatseg::cuda
