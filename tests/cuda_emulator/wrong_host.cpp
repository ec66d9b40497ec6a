// Small kernels, each wrong in one way that the emulator must find, beside its mended twin.
#include "cuda/device.cuh"

using namespace splatseg::cuda;

namespace {

struct Task {
  bool mended;
  int n;
  float* data;
};

// Warp 1 reads what warps 0 and 2 both leave, in two places: wrong only where warp 1 is the first of the three.
__global__ void read_before_barrier(Task t) {
  float* shared = reinterpret_cast<float*>(dynamic_shared());
  const int warp = threadIdx.x / kWarp;
  if (warp != 1) shared[warp] = 1;
  if (t.mended) __syncthreads();
  if (threadIdx.x == kWarp) *t.data = shared[0] == 1 || shared[2] == 1 ? 1.f : 0.f;
}

// Lanes hand a value round without __syncwarp between the reading and the writing.
__global__ void read_before_syncwarp(Task t) {
  float* shared = reinterpret_cast<float*>(dynamic_shared());
  shared[threadIdx.x] = (float)threadIdx.x;
  __syncwarp();
  const float next = shared[(threadIdx.x + 1) % kWarp];
  if (t.mended) __syncwarp();
  shared[threadIdx.x] = next;
  __syncwarp();
  t.data[threadIdx.x] = shared[threadIdx.x];
}

// Every block adds one: a read and a write around a barrier, right for blocks that run one after the other.
__global__ void count_blocks(Task t) {
  if (t.mended) {
    if (threadIdx.x == 0) atomicAdd(t.data, 1);
    return;
  }
  const float before = *t.data;
  __syncthreads();
  if (threadIdx.x == 0) *t.data = before + 1;
}

// The second block takes what another one left: wrong where it is the first.
__global__ void wait_for_no_block(Task t) {
  if (blockIdx.x != 1 && !t.mended) t.data[blockIdx.x] = 1;
  if (blockIdx.x == 1) t.data[1] = t.mended || t.data[0] == 1 || t.data[2] == 1 ? 1.f : 0.f;
}

__global__ void load_four(Task t) {
  const float* from = t.data + (t.mended ? 4 : 1);
  t.data[8 + threadIdx.x] = reinterpret_cast<const Pack<float, 4>*>(from)->value[threadIdx.x];
}
__global__ void store_four(Task t) {
  if (threadIdx.x == 0) *reinterpret_cast<Pack<float, 4>*>(t.data + (t.mended ? 4 : 2)) = Pack<float, 4>{{1, 2, 3, 4}};
}

// A lane waits for a warp whose other lanes wait for the block.
__global__ void divergent_barrier(Task t) {
  if (threadIdx.x == 3 && !t.mended) __syncwarp();
  __syncthreads();
}
__global__ void partial_mask(Task t) {
  if (t.mended || threadIdx.x < 16) *t.data += __shfl_xor_sync(t.mended ? kFullWarp : 0xffffu, 1.f, 16);
}
__global__ void write_beyond_shared(Task t) { dynamic_shared()[t.n - t.mended] = 1; }

}  // namespace

// data: 64 floats, aligned to 16 bytes.
extern "C" void wrong(const char* name, int mended, float* data) {
  const Stream stream;
  const Task t{mended != 0, 64, data};
  const auto is = [name](const char* other) { return strcmp(name, other) == 0; };
  if (is("read_before_barrier")) stream.launch(read_before_barrier, 1, 96, 12, t);
  if (is("read_before_syncwarp")) stream.launch(read_before_syncwarp, 1, kWarp, 128, t);
  if (is("count_blocks")) stream.launch(count_blocks, 9, 64, 0, t);
  if (is("wait_for_no_block")) stream.launch(wait_for_no_block, 3, 1, 0, t);
  if (is("load_four")) stream.launch(load_four, 1, 4, 0, t);
  if (is("store_four")) stream.launch(store_four, 1, 4, 0, t);
  if (is("divergent_barrier")) stream.launch(divergent_barrier, 1, 64, 0, t);
  if (is("partial_mask")) stream.launch(partial_mask, 1, kWarp, 0, t);
  if (is("write_beyond_shared")) stream.launch(write_beyond_shared, 2, 1, 64, t);
}
