// A host stand-in for the part of CUDA that the kernels under cuda_ext/cuda use, so that the same .cuh files run under g++
// and are tested without a GPU. One thread block at a time; every CUDA thread is a fiber (ucontext), switched only at
// barriers and warp operations, in a chosen order: a result that changes with the order is a missing barrier.
//
// It finds: wrong results, reads of dynamic shared memory before it is written (filled with NaN bytes for each block),
// barriers that not all threads reach (reported as a deadlock), races between barriers (run with both orders). It does not
// find: races between blocks, misaligned vector loads, exhausted registers.
#pragma once

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#include <functional>
#include <memory>
#include <type_traits>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __restrict__
#define __launch_bounds__(...)
#define __shared__ static

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

inline dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace cuda_emulator {

constexpr int kWarpSize = 32;
constexpr size_t kStackBytes = 128 * 1024;

enum class Wait { none, block, warp, done };

struct Fiber {
  ucontext_t context;
  Wait wait = Wait::none;
  dim3 thread;
  int warp = 0, lane = 0;
  unsigned mask = 0;  // lanes that take part in the warp operation it waits for
};

// What the lanes of a warp hand each other. `shown` is a copy of `offered` made when the last lane arrives.
struct Warp {
  uint64_t offered[kWarpSize] = {}, shown[kWarpSize] = {};
  unsigned alive = 0, arrived = 0;
};

struct Block {
  std::vector<Fiber> fibers;
  std::vector<Warp> warps;
  ucontext_t scheduler;
  Fiber* current = nullptr;
  std::function<void()> body;
};

inline Block block;
inline std::vector<unsigned char> shared_memory;
inline std::unique_ptr<char[]> stacks;
inline size_t stacks_count = 0;
inline bool reverse_order = false;

inline unsigned char* dynamic_shared() { return shared_memory.data(); }

[[noreturn]] inline void fail(const char* what) {
  fprintf(stderr, "cuda_emulator: %s (block %u, thread %u)\n", what, blockIdx.x, block.current ? block.current->thread.x : 0);
  abort();
}

inline void suspend(Wait wait) {
  Fiber* self = block.current;
  self->wait = wait;
  swapcontext(&self->context, &block.scheduler);
}

inline void run_body() {
  block.body();
  block.current->wait = Wait::done;
}

// Waits until all lanes of `mask` that still run have come, each with a value; then shows the values to all.
inline void meet(unsigned mask, uint64_t value) {
  Fiber* self = block.current;
  Warp& warp = block.warps[self->warp];
  if (!(mask >> self->lane & 1)) fail("a warp operation's mask leaves out its own lane");
  warp.offered[self->lane] = value;
  warp.arrived |= 1u << self->lane;
  self->mask = mask;
  suspend(Wait::warp);
}

// Releases what can go on: warps whose lanes have all come, or the whole block at its barrier.
inline bool release() {
  bool any = false, all_at_barrier = true, one_alive = false;
  for (Fiber& f : block.fibers) {
    if (f.wait == Wait::done) continue;
    one_alive = true;
    all_at_barrier &= f.wait == Wait::block;
    Warp& warp = block.warps[f.warp];
    const unsigned needed = f.mask & warp.alive;
    if (f.wait != Wait::warp || (warp.arrived & needed) != needed) continue;
    memcpy(warp.shown, warp.offered, sizeof warp.shown);
    for (Fiber& other : block.fibers) {
      if (other.warp == f.warp && (needed >> other.lane & 1)) {
        if (other.mask != f.mask) fail("lanes meet with different masks");
        other.wait = Wait::none;
      }
    }
    warp.arrived &= ~needed;
    any = true;
  }
  if (any || !one_alive || !all_at_barrier) return any;
  for (Fiber& f : block.fibers) {
    if (f.wait == Wait::block) f.wait = Wait::none;
  }
  return true;
}

inline void resume(Fiber& f) {
  block.current = &f;
  threadIdx = f.thread;
  swapcontext(&block.scheduler, &f.context);
  if (f.wait == Wait::done) block.warps[f.warp].alive &= ~(1u << f.lane);
}

inline void start_block(unsigned threads) {
  if (stacks_count < threads) {
    stacks.reset(new char[threads * kStackBytes]);
    stacks_count = threads;
  }
  block.fibers.assign(threads, Fiber());
  block.warps.assign((threads + kWarpSize - 1) / kWarpSize, Warp());
  for (unsigned i = 0; i < threads; i++) {
    Fiber& f = block.fibers[i];
    f.thread = dim3(i % blockDim.x, i / blockDim.x % blockDim.y, i / (blockDim.x * blockDim.y));
    f.warp = (int)i / kWarpSize;
    f.lane = (int)i % kWarpSize;
    block.warps[f.warp].alive |= 1u << f.lane;
    getcontext(&f.context);
    f.context.uc_stack.ss_sp = stacks.get() + i * kStackBytes;
    f.context.uc_stack.ss_size = kStackBytes;
    f.context.uc_link = &block.scheduler;
    makecontext(&f.context, run_body, 0);
  }
}

inline void run_block() {
  const unsigned threads = blockDim.x * blockDim.y * blockDim.z;
  start_block(threads);
  for (;;) {
    bool ran = false, alive = false;
    for (unsigned i = 0; i < threads; i++) {
      Fiber& f = block.fibers[reverse_order ? threads - 1 - i : i];
      alive |= f.wait != Wait::done;
      if (f.wait != Wait::none) continue;
      resume(f);
      ran = true;
    }
    if (!alive) return;
    if (!release() && !ran) fail("deadlock: threads wait at different barriers");
  }
}

// kernel<<<grid, threads, shared_bytes>>>(arguments...), run to its end.
template <class Kernel, class... Arguments>
void launch(Kernel* kernel, dim3 grid, dim3 threads, size_t shared_bytes, const Arguments&... arguments) {
  gridDim = grid;
  blockDim = threads;
  block.body = [&] { kernel(arguments...); };
  const unsigned blocks = grid.x * grid.y * grid.z;
  for (unsigned i = 0; i < blocks; i++) {
    const unsigned b = reverse_order ? blocks - 1 - i : i;
    blockIdx = dim3(b % grid.x, b / grid.x % grid.y, b / (grid.x * grid.y));
    shared_memory.assign(shared_bytes + 1, 0xff);  // NaN as float and as double
    run_block();
  }
}

// Stands in for splatseg::cuda::Stream.
struct Stream {
  template <class Kernel, class Task>
  void launch(Kernel* kernel, int64_t blocks, int threads, int64_t shared_bytes, const Task& task) const {
    cuda_emulator::launch(kernel, dim3((unsigned)blocks), dim3((unsigned)threads), (size_t)shared_bytes, task);
  }
  void clear(void* data, int64_t bytes) const { memset(data, 0, (size_t)bytes); }
};

template <class T>
uint64_t to_bits(T value) {
  static_assert(sizeof(T) <= 8 && std::is_trivially_copyable_v<T>);
  uint64_t bits = 0;
  memcpy(&bits, &value, sizeof value);
  return bits;
}

// Value of another lane; a lane outside the warp, or one that does not take part, gives the caller's own.
template <class T>
T exchange(unsigned mask, T value, int from) {
  meet(mask, to_bits(value));
  const Warp& warp = block.warps[block.current->warp];
  if (from < 0 || from >= kWarpSize || !(mask >> from & 1)) return value;
  T result;
  memcpy(&result, &warp.shown[from], sizeof result);
  return result;
}

inline int lane() { return block.current->lane; }

template <class Test>
unsigned lanes_where(unsigned mask, uint64_t value, Test test) {
  meet(mask, value);
  const Warp& warp = block.warps[block.current->warp];
  unsigned result = 0;
  for (int i = 0; i < kWarpSize; i++) {
    if ((mask & warp.alive) >> i & 1) result |= (unsigned)test(warp.shown[i]) << i;
  }
  return result;
}

}  // namespace cuda_emulator

inline void __syncthreads() { cuda_emulator::suspend(cuda_emulator::Wait::block); }
inline void __syncwarp(unsigned mask = 0xffffffffu) { cuda_emulator::meet(mask, 0); }
inline void __threadfence() {}

template <class T> T __shfl_sync(unsigned mask, T v, int from) { return cuda_emulator::exchange(mask, v, from); }
template <class T> T __shfl_xor_sync(unsigned mask, T v, int bits) {
  return cuda_emulator::exchange(mask, v, cuda_emulator::lane() ^ bits);
}
template <class T> T __shfl_up_sync(unsigned mask, T v, unsigned step) {
  return cuda_emulator::exchange(mask, v, cuda_emulator::lane() - (int)step);
}
template <class T> T __shfl_down_sync(unsigned mask, T v, unsigned step) {
  return cuda_emulator::exchange(mask, v, cuda_emulator::lane() + (int)step);
}
inline unsigned __ballot_sync(unsigned mask, int predicate) {
  return cuda_emulator::lanes_where(mask, predicate != 0, [](uint64_t x) { return x != 0; });
}
inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
inline int __all_sync(unsigned mask, int predicate) { return __ballot_sync(mask, !predicate) == 0; }
template <class T> unsigned __match_any_sync(unsigned mask, T value) {
  const uint64_t own = cuda_emulator::to_bits(value);
  return cuda_emulator::lanes_where(mask, own, [own](uint64_t x) { return x == own; });
}

// Fibers are not preempted, so plain reads and writes are atomic here.
template <class T> T atomicAdd(T* at, std::type_identity_t<T> x) { T old = *at; *at = old + x; return old; }
template <class T> T atomicOr(T* at, std::type_identity_t<T> x) { T old = *at; *at = old | x; return old; }
template <class T> T atomicMax(T* at, std::type_identity_t<T> x) { T old = *at; if (x > old) *at = x; return old; }
template <class T> T atomicMin(T* at, std::type_identity_t<T> x) { T old = *at; if (x < old) *at = x; return old; }
template <class T> T atomicExch(T* at, std::type_identity_t<T> x) { T old = *at; *at = x; return old; }
template <class T> T atomicCAS(T* at, std::type_identity_t<T> expected, std::type_identity_t<T> x) {
  T old = *at;
  if (old == expected) *at = x;
  return old;
}

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz((unsigned)x); }
template <class T> T __ldg(const T* at) { return *at; }
inline float rsqrtf(float x) { return 1 / sqrtf(x); }
template <class T> std::enable_if_t<std::is_arithmetic_v<T>, T> min(T a, T b) { return b < a ? b : a; }
template <class T> std::enable_if_t<std::is_arithmetic_v<T>, T> max(T a, T b) { return a < b ? b : a; }
