// A host stand-in for the part of CUDA that the kernels under cuda_ext/cuda use, so that the same .cuh files run under g++
// and are tested without a GPU. Every CUDA thread is a fiber (ucontext), switched only at barriers, warp operations and
// atomics, in a chosen order (set_order): a result that changes with the order is a missing barrier or a race.
//
//   forward, reverse: one block at a time; the lowest (highest) thread that can go on does.
//   shuffled by a seed: blocks in random order, several resident at once; the warp of the highest priority goes on, by a random
//     lane; priorities are random and drawn anew from time to time, so that one warp runs far ahead of another.
//
// It finds: wrong results, reads of dynamic shared memory before it is written (filled with NaN bytes for each block) and
// writes beyond it, barriers that not all threads reach (a deadlock), shuffles from lanes that take no part (NaN bytes), races
// between two barriers, warps or blocks (by running all orders), misaligned loads and stores (compiled with
// -fsanitize=alignment; see build.py). What it finds by itself ends the launch and is told by failure(). It does not find: a
// lost update of a plain read-modify-write without a switch in between, exhausted registers.
#pragma once

#include <math.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <string>
#include <type_traits>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __restrict__
#define __launch_bounds__(...)
// Would be one variable for all resident blocks.
#define __shared__ static_assert(false, "the emulator has dynamic shared memory only: splatseg::cuda::dynamic_shared()");

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

inline dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace cuda_emulator {

constexpr int kWarpSize = 32;
constexpr int kResidentBlocks = 3;  // in the shuffled orders
constexpr size_t kStackBytes = 128 * 1024;
constexpr size_t kGuardBytes = 256;  // behind a block's shared memory, never written by a right kernel
constexpr int64_t kForward = 0, kReverse = 1;  // every other order is a seed

struct Block;
struct Warp;

struct Fiber {
  ucontext_t context;          // to start it; from then on it is left and entered by longjmp, which makes no system call
  jmp_buf place;
  bool started = false;
  Block* block = nullptr;
  Warp* warp = nullptr;
  dim3 thread;
  int lane = 0;
  unsigned mask = 0;           // lanes of the warp operation it waits for
  unsigned met = 0;            // lanes that took part in its last one
  uint64_t offered = 0;        // its value for the others
  uint64_t shown[kWarpSize];   // those of the lanes in `met`
};

// Sets of lanes are bits.
struct Warp {
  Fiber* lanes[kWarpSize] = {};
  unsigned alive = 0, runnable = 0, meeting = 0, at_barrier = 0;
  uint64_t priority = 0;
};

struct Block {
  dim3 index;
  std::vector<Fiber> fibers;
  std::vector<Warp> warps;  // empty: nothing runs here
  std::vector<unsigned char> shared;
  std::unique_ptr<char[]> stacks;
  size_t stacks_count = 0;
  bool any = false;  // of __syncthreads_or
};

inline Block blocks[kResidentBlocks];
inline Fiber* current = nullptr;  // null outside a kernel
inline jmp_buf scheduler;
inline std::function<void()> body;
inline std::string first_failure;
inline int64_t order = kForward;
inline uint64_t random_state = 0;

inline bool shuffled() { return order != kForward && order != kReverse; }

inline uint64_t draw() {  // splitmix64
  uint64_t x = random_state += 0x9e3779b97f4a7c15ull;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return x ^ (x >> 31);
}

inline unsigned char* dynamic_shared() { return current->block->shared.data(); }

inline void note_failure(const std::string& what) {
  if (!first_failure.empty()) return;
  char where[80];
  snprintf(where, sizeof where, " (block %u, thread %u)", blockIdx.x, threadIdx.x);
  first_failure = what + where;
}

// Ends the launch. The fibers stay where they are: kernels own nothing that would have to be destroyed.
[[noreturn]] inline void fail(const std::string& what) {
  note_failure(what);
  _longjmp(scheduler, 1);
}

inline void to_scheduler() {
  if (_setjmp(current->place) == 0) _longjmp(scheduler, 1);
}

// A place where a device might switch to another warp.
inline void may_switch() {
  if (current && shuffled() && draw() % 4 == 0) to_scheduler();
}

inline void release_barrier(Block& block) {
  for (const Warp& warp : block.warps) {
    if (warp.at_barrier != warp.alive) return;
  }
  for (Warp& warp : block.warps) {
    warp.runnable |= warp.at_barrier;
    warp.at_barrier = 0;
  }
}

// Lets the lanes of `mask` go on, each with the values of all, once those that still run have come.
inline void release_meeting(Warp& warp, unsigned mask) {
  const unsigned needed = mask & warp.alive;
  if (!needed || (warp.meeting & needed) != needed) return;
  uint64_t shown[kWarpSize];
  memset(shown, 0xff, sizeof shown);
  for (int i = 0; i < kWarpSize; i++) {
    if (!(needed >> i & 1)) continue;
    if (warp.lanes[i]->mask != mask) fail("lanes meet with different masks");
    shown[i] = warp.lanes[i]->offered;
  }
  for (int i = 0; i < kWarpSize; i++) {
    if (!(needed >> i & 1)) continue;
    memcpy(warp.lanes[i]->shown, shown, sizeof shown);
    warp.lanes[i]->met = needed;
  }
  warp.meeting &= ~needed;
  warp.runnable |= needed;
}

inline void wait_for_block() {
  const unsigned own = 1u << current->lane;
  current->warp->runnable &= ~own;
  current->warp->at_barrier |= own;
  release_barrier(*current->block);
  to_scheduler();
}

// Waits until all lanes of `mask` that still run have come, each with a value.
inline void meet(unsigned mask, uint64_t value) {
  Fiber& self = *current;
  const unsigned own = 1u << self.lane;
  if (!(mask & own)) fail("a warp operation's mask leaves out its own lane");
  self.mask = mask;
  self.offered = value;
  self.warp->runnable &= ~own;
  self.warp->meeting |= own;
  release_meeting(*self.warp, mask);
  to_scheduler();
}

// The last lane that others wait for may leave instead of coming.
inline void leave() {
  Warp& warp = *current->warp;
  const unsigned own = 1u << current->lane;
  warp.alive &= ~own;
  warp.runnable &= ~own;
  for (int i = 0; i < kWarpSize; i++) {
    if (warp.meeting >> i & 1) release_meeting(warp, warp.lanes[i]->mask);
  }
  release_barrier(*current->block);
}

inline void run_body() {
  body();
  leave();
  _longjmp(scheduler, 1);
}

inline uint64_t first_priority(size_t warp) {
  if (shuffled()) return draw();
  return order == kForward ? UINT64_MAX - warp : warp;
}

inline void start_fiber(Block& block, unsigned i) {
  Fiber& f = block.fibers[i];
  f.block = &block;
  f.warp = &block.warps[i / kWarpSize];
  f.lane = (int)(i % kWarpSize);
  f.thread = dim3(i % blockDim.x, i / blockDim.x % blockDim.y, i / (blockDim.x * blockDim.y));
  f.warp->lanes[f.lane] = &f;
  f.warp->alive |= 1u << f.lane;
  f.warp->runnable |= 1u << f.lane;
  getcontext(&f.context);
  f.context.uc_stack.ss_sp = block.stacks.get() + i * kStackBytes;
  f.context.uc_stack.ss_size = kStackBytes;
  f.context.uc_link = nullptr;
  makecontext(&f.context, run_body, 0);
}

inline void start_block(Block& block, unsigned number, size_t shared_bytes) {
  const unsigned threads = blockDim.x * blockDim.y * blockDim.z;
  if (block.stacks_count < threads) {
    block.stacks.reset(new char[threads * kStackBytes]);
    block.stacks_count = threads;
  }
  block.index = dim3(number % gridDim.x, number / gridDim.x % gridDim.y, number / (gridDim.x * gridDim.y));
  block.shared.assign(shared_bytes + kGuardBytes, 0xff);  // NaN as float and as double
  block.fibers.assign(threads, Fiber());
  block.warps.assign((threads + kWarpSize - 1) / kWarpSize, Warp());
  for (size_t w = 0; w < block.warps.size(); w++) block.warps[w].priority = first_priority(w);
  for (unsigned i = 0; i < threads; i++) start_fiber(block, i);
}

inline void finish_block(Block& block) {
  const auto guard = block.shared.end() - kGuardBytes;
  if (std::any_of(guard, block.shared.end(), [](unsigned char x) { return x != 0xff; })) {
    note_failure("a write beyond the dynamic shared memory");
  }
  block.warps.clear();
}

// The lane that goes on next, or null if none can.
inline Fiber* pick() {
  Warp* best = nullptr;
  for (Block& block : blocks) {
    for (Warp& warp : block.warps) {
      if (warp.runnable && (!best || warp.priority > best->priority)) best = &warp;
    }
  }
  if (!best) return nullptr;
  if (order == kForward) return best->lanes[__builtin_ctz(best->runnable)];
  if (order == kReverse) return best->lanes[31 - __builtin_clz(best->runnable)];
  if (draw() % 64 == 0) best->priority = draw();
  unsigned lanes = best->runnable;
  for (uint64_t skip = draw() % (uint64_t)__builtin_popcount(lanes); skip; skip--) lanes &= lanes - 1;
  return best->lanes[__builtin_ctz(lanes)];
}

inline bool runs(const Block& block) {
  return std::any_of(block.warps.begin(), block.warps.end(), [](const Warp& warp) { return warp.alive != 0; });
}

inline void resume(Fiber& f) {
  current = &f;
  threadIdx = f.thread;
  blockIdx = f.block->index;
  if (_setjmp(scheduler) == 0) {
    if (f.started) _longjmp(f.place, 1);
    f.started = true;
    setcontext(&f.context);
  }
  current = nullptr;
}

inline std::vector<unsigned> block_order(unsigned count) {
  std::vector<unsigned> numbers(count);
  for (unsigned i = 0; i < count; i++) numbers[i] = order == kReverse ? count - 1 - i : i;
  for (unsigned i = count; shuffled() && i > 1; i--) std::swap(numbers[i - 1], numbers[draw() % i]);
  return numbers;
}

// kernel<<<grid, threads, shared_bytes>>>(arguments...), run to its end; nothing after a failure.
template <class Kernel, class... Arguments>
void launch(Kernel* kernel, dim3 grid, dim3 threads, size_t shared_bytes, const Arguments&... arguments) {
  if (!first_failure.empty()) return;
  gridDim = grid;
  blockDim = threads;
  body = [&] { kernel(arguments...); };
  std::vector<unsigned> waiting = block_order(grid.x * grid.y * grid.z);
  std::reverse(waiting.begin(), waiting.end());
  const auto start_next = [&](Block& block) {
    if (waiting.empty()) return;
    start_block(block, waiting.back(), shared_bytes);
    waiting.pop_back();
  };
  for (int i = 0; i < (shuffled() ? kResidentBlocks : 1); i++) start_next(blocks[i]);
  while (std::any_of(std::begin(blocks), std::end(blocks), runs)) {
    Fiber* next = pick();
    if (next) resume(*next);
    else note_failure("deadlock: threads wait at different barriers");
    if (next && first_failure.empty() && !runs(*next->block)) {
      finish_block(*next->block);
      start_next(*next->block);
    }
    if (!first_failure.empty()) {
      for (Block& block : blocks) block.warps.clear();
    }
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

// Value of another lane; a lane outside the warp gives the caller's own, one that takes no part NaN bytes.
template <class T>
T exchange(unsigned mask, T value, int from) {
  meet(mask, to_bits(value));
  if (from < 0 || from >= kWarpSize) return value;
  T result;
  memcpy(&result, &current->shown[from], sizeof result);
  return result;
}

inline int lane() { return current->lane; }

template <class Test>
unsigned lanes_where(unsigned mask, uint64_t value, Test test) {
  meet(mask, value);
  unsigned result = 0;
  for (int i = 0; i < kWarpSize; i++) {
    if (current->met >> i & 1) result |= (unsigned)test(current->shown[i]) << i;
  }
  return result;
}

// What -fsanitize=alignment tells of an access; the layout is that of GCC's and Clang's libubsan.
struct MisalignedAccess {
  const char* file;
  uint32_t line, column;
  const void* type;
  unsigned char log_alignment, kind;
};

}  // namespace cuda_emulator

#define EMULATOR_EXPORT extern "C" __attribute__((used, visibility("default"))) inline

// For tests: the order of all launches from here on (kForward, kReverse or a seed); forgets failures.
EMULATOR_EXPORT void set_order(int64_t order) {
  cuda_emulator::order = order;
  cuda_emulator::random_state = (uint64_t)order;
  cuda_emulator::first_failure.clear();
}
// For tests: the first failure since set_order, in words; empty without one.
EMULATOR_EXPORT const char* failure() { return cuda_emulator::first_failure.c_str(); }

// In the place of libubsan's. Declared as not throwing by the compiler, hence fail() by way of the scheduler.
EMULATOR_EXPORT void __ubsan_handle_type_mismatch_v1(void* access, void* address) {
  const auto& at = *static_cast<cuda_emulator::MisalignedAccess*>(access);
  const char* name = strrchr(at.file, '/');
  char text[200];
  snprintf(text, sizeof text, "misaligned access at %s:%u: expected a multiple of %d bytes, found an address %d beyond one",
           name ? name + 1 : at.file, at.line, 1 << at.log_alignment,
           (int)((uintptr_t)address & ((1u << at.log_alignment) - 1)));
  if (cuda_emulator::current) cuda_emulator::fail(text);
  cuda_emulator::note_failure(text);
}

inline void __syncthreads() { cuda_emulator::wait_for_block(); }
inline int __syncthreads_or(int predicate) {
  cuda_emulator::Block& block = *cuda_emulator::current->block;
  block.any |= predicate != 0;
  __syncthreads();
  const bool any = block.any;
  __syncthreads();
  block.any = false;
  __syncthreads();  // nobody sets it for the next call before all have cleared it
  return any;
}
inline void __syncwarp(unsigned mask = 0xffffffffu) { cuda_emulator::meet(mask, 0); }
inline void __threadfence() { cuda_emulator::may_switch(); }

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

// A fiber is not preempted between the read and the write, so they are atomic; before them others may go on.
template <class T, class Next>
T update(T* at, Next next) {
  cuda_emulator::may_switch();
  const T old = *at;
  *at = next(old);
  return old;
}
template <class T> T atomicAdd(T* at, std::type_identity_t<T> x) { return update(at, [x](T old) { return old + x; }); }
template <class T> T atomicOr(T* at, std::type_identity_t<T> x) { return update(at, [x](T old) { return old | x; }); }
template <class T> T atomicMax(T* at, std::type_identity_t<T> x) { return update(at, [x](T old) { return x > old ? x : old; }); }
template <class T> T atomicMin(T* at, std::type_identity_t<T> x) { return update(at, [x](T old) { return x < old ? x : old; }); }
template <class T> T atomicExch(T* at, std::type_identity_t<T> x) { return update(at, [x](T) { return x; }); }
template <class T> T atomicCAS(T* at, std::type_identity_t<T> expected, std::type_identity_t<T> x) {
  return update(at, [expected, x](T old) { return old == expected ? x : old; });
}

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz((unsigned)x); }
template <class T> T __ldg(const T* at) { return *at; }
inline float rsqrtf(float x) { return 1 / sqrtf(x); }
template <class T> std::enable_if_t<std::is_arithmetic_v<T>, T> min(T a, T b) { return b < a ? b : a; }
template <class T> std::enable_if_t<std::is_arithmetic_v<T>, T> max(T a, T b) { return a < b ? b : a; }
