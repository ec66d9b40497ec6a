// The transpose of blend and Adam in one gather, for a replayed step. Mirrors splatseg/ops/reference/columns.py.
//
// A batch lies in columns, one a Gaussian: the positions of its pixels in the batch, and its weights there. So a column finds
// the rows of the gradient that it needs, adds them up in registers and moves its Gaussian at once: no atomics, no flags, no
// gradient of all Gaussians, the same bits always.
//
// Reading is a chain: column, positions and weights, rows; the Gaussian's state comes beside it. Groups of L lanes take kAtOnce
// entries together, with the next ones on their way; longer columns are taken by all groups of a warp, the longest by those of
// a block.
#pragma once
#include "cuda/adam_kernels.cuh"
#include "cuda/blend_kernels.cuh"

namespace splatseg::cuda {

constexpr int kColumnThreads = 256;
constexpr int kColumnWarps = kColumnThreads / kWarp;
constexpr int kAtOnce = 4;

template <class T, class W>
struct ColumnTask {
  int64_t rows, steps, batches, columns, entries, n, d;  // rows of the gradient
  const int64_t* cells;          // (3,) as PoolBatches has them: number of the step that is on, and its batch, come last
  const int64_t* batch_columns;  // (batches, 4) first column for a block, for a warp, for a group; end
  const int64_t* batch_entries;  // (batches,) first entry of each batch
  const int* ids;                // (columns,) Gaussian of each, once a batch
  const int* offsets;            // (columns + batches,) entries of each, from the batch's first on; one more a batch
  const int* positions;          // (entries,) row of the gradient
  const W* weights;              // (entries,)
  const T* grad;                 // (rows, d)
  const AdamScalars* rates;      // (steps,)
  T* params;  // (n, d), as the next two
  T* exp_avg;
  T* exp_avg_sq;
  int64_t* bad;  // first row whose gradient is not finite, else as it was
  double beta1, beta2, eps, norm_scale;
  int64_t most[3];  // columns for blocks, warps and groups: the most of any batch
};

// A column as a lane of the G groups sees that take it. G is 1, all groups of a warp or all of a block.
template <class T, class W, int V, int L, int G>
struct ColumnTeam {
  static constexpr int kOwn = L < kAtOnce ? kAtOnce / L : 1;  // entries that a lane reads for its group
  static constexpr bool kWholeBlock = G * L > kWarp;

  const ColumnTask<T, W>& t;
  const int* positions = nullptr;
  const W* weights = nullptr;
  int size = 0;  // entries; a batch has fewer than 2^31
  int id = 0;

  // Column `at` of the batch, or an empty one for nobody.
  __device__ ColumnTeam(const ColumnTask<T, W>& task, int64_t batch, int64_t at, int64_t last) : t(task) {
    if (at < 0 || at >= last || at >= t.columns) return;
    id = t.ids[at];
    const int begin = t.offsets[at + batch], end = t.offsets[at + batch + 1];
    const int64_t first = t.batch_entries[batch];
    if (begin < 0 || end < begin || first < 0 || first + end > t.entries || id < 0 || id >= t.n) return;
    positions = t.positions + first + begin;
    weights = t.weights + first + begin;
    size = end - begin;
  }

  __device__ static int lane() { return threadIdx.x % kWarp; }
  __device__ static int sub() { return threadIdx.x % L; }

  // This lane's part of the group's entries from `base` on; -1 and 0 beyond the column and out of range.
  struct Entries {
    int row[kOwn];
    T weight[kOwn];
  };
  __device__ Entries read_entries(int base) const {
    Entries own;
#pragma unroll
    for (int k = 0; k < kOwn; k++) {
      const int slot = k * L + sub();
      const bool there = slot < kAtOnce && base + slot < size;
      own.row[k] = there ? positions[base + slot] : -1;
      own.weight[k] = there ? (T)weight_of(weights[base + slot]) : T(0);
      if (own.row[k] >= t.rows) own.row[k] = -1;
    }
    return own;
  }

  // Adds the entries that the group's lanes have read.
  __device__ void add_rows(const Entries& own, int c, Pack<T, V>& total) const {
    const int leader = lane() / L * L;
    Pack<T, V> grad[kAtOnce];  // all read before the first is used, so that their latencies overlap
#pragma unroll
    for (int j = 0; j < kAtOnce; j++) {
      const int row = __shfl_sync(kFullWarp, own.row[j / L], leader + j % L);
      grad[j] = zero_pack<T, V>();
      if (row >= 0 && c < t.d) grad[j] = *reinterpret_cast<const Pack<T, V>*>(t.grad + row * t.d + c);
    }
#pragma unroll
    for (int j = 0; j < kAtOnce; j++) {
      const T weight = __shfl_sync(kFullWarp, own.weight[j / L], leader + j % L);
#pragma unroll
      for (int v = 0; v < V; v++) total.value[v] += weight * grad[j].value[v];
    }
  }

  // Channels c.. of the column's gradient by this lane's group alone. Every lane of the warp must call.
  __device__ Pack<T, V> own_sum(int c) const {
    auto total = zero_pack<T, V>();
    int base = (int)(threadIdx.x / L % G) * kAtOnce;
    Entries next = read_entries(base);
    while (__any_sync(kFullWarp, base < size)) {
      const Entries own = next;
      base += G * kAtOnce;
      next = read_entries(base);
      add_rows(own, c, total);
    }
    return total;
  }

  // The same by all groups, in an order that depends on nothing but the column; each lane gets it.
  __device__ Pack<T, V> sum(int c) const {
    auto total = own_sum(c);
    if constexpr (G > 1) {
#pragma unroll
      for (int step = L; step < kWarp; step *= 2) {
#pragma unroll
        for (int v = 0; v < V; v++) total.value[v] += __shfl_xor_sync(kFullWarp, total.value[v], step);
      }
    }
    if constexpr (kWholeBlock) total = sum_of_warps(total);
    return total;
  }

  // Every thread of the block must call. Shared memory: see column_shared_bytes.
  __device__ static Pack<T, V> sum_of_warps(const Pack<T, V>& own) {
    auto* parts = reinterpret_cast<Pack<T, V>*>(dynamic_shared());
    const int warp = threadIdx.x / kWarp;
    if (lane() < L) parts[warp * L + lane()] = own;
    __syncthreads();
    auto total = zero_pack<T, V>();
    for (int w = 0; w < kColumnWarps; w++) {
      const Pack<T, V> part = parts[w * L + sub()];
#pragma unroll
      for (int v = 0; v < V; v++) total.value[v] += part.value[v];
    }
    __syncthreads();  // the next channels' parts go to the same place
    return total;
  }

  // Channels c.. of the gradient, and where the row moves its feature and moments, which are on their way beside it.
  __device__ AdamPack<T, V> gathered(int c, bool moves) const {
    AdamPack<T, V> pack;
    if (moves && c < t.d) pack.load_state(t, id * t.d + c);
    pack.g = sum(c);
    return pack;
  }

  // Sums the gradient and moves the Gaussian. Channels beyond the first V L are gathered twice: the norm and whether all is
  // finite must be known before any is stored.
  __device__ void move_row(const AdamScalars& scalars) const {
    if (!__any_sync(kFullWarp, size > 0)) return;  // in a whole block's column all say the same
    const int64_t at = (int64_t)id * t.d;
    const int c = sub() * V;
    const bool live = size > 0 && threadIdx.x / L % G == 0;
    auto first = gathered(c, live);
    RowSums<T, L> sums;
    sums.add(first);
    for (int base = V * L; base < t.d; base += V * L) sums.add(gathered(base + c, live));
    sums.share();
    const bool moves = live && sums.finite(t, id, sub());
    const T pull = sums.pull(t);
    if (moves && c < t.d) first.move(t, scalars, at + c, pull);
    for (int base = V * L; base < t.d; base += V * L) {
      auto more = gathered(base + c, moves);
      if (moves && base + c < t.d) more.move(t, scalars, at + base + c, pull);
    }
  }
};

// A block for each of the longest columns of the batch, then a warp for each of the long ones, then a group each. Blocks
// beyond those that the batch needs have nothing to do.
template <class T, class W, int V, int L>
__global__ void __launch_bounds__(kColumnThreads, sizeof(T) == 4 ? 3 : 2) move_columns(ColumnTask<T, W> t) {
  const int64_t step = t.cells[1], batch = t.cells[2];
  if (step < 0 || step >= t.steps || batch < 0 || batch >= t.batches) return;
  const AdamScalars scalars = t.rates[step];
  const int64_t* bounds = t.batch_columns + 4 * batch;
  int64_t block = blockIdx.x;
  if (block < bounds[1] - bounds[0]) {
    return ColumnTeam<T, W, V, L, kColumnThreads / L>(t, batch, bounds[0] + block, bounds[1]).move_row(scalars);
  }
  block -= bounds[1] - bounds[0];
  const int64_t warp_blocks = (bounds[2] - bounds[1] + kColumnWarps - 1) / kColumnWarps;
  if (block < warp_blocks) {
    const int64_t at = bounds[1] + block * kColumnWarps + threadIdx.x / kWarp;
    return ColumnTeam<T, W, V, L, kWarp / L>(t, batch, at, bounds[2]).move_row(scalars);
  }
  const int64_t at = bounds[2] + (block - warp_blocks) * (kColumnThreads / L) + threadIdx.x / L;
  ColumnTeam<T, W, V, L, 1>(t, batch, at, bounds[3]).move_row(scalars);
}

template <class T, int V, int L>
constexpr int64_t column_shared_bytes() {
  return kColumnWarps * L * sizeof(Pack<T, V>);
}

// For n > 0 and d > 0.
template <class T, class W>
void launch_move_columns(const ColumnTask<T, W>& t, const Stream& stream) {
  with_row_layout<T>(t.d, [&](auto v, auto l) {
    const auto blocks_of = [](int64_t columns, int64_t a_block) { return (columns + a_block - 1) / a_block; };
    const int64_t blocks = t.most[0] + blocks_of(t.most[1], kColumnWarps) + blocks_of(t.most[2], kColumnThreads / l());
    if (blocks == 0) return;
    stream.launch(move_columns<T, W, v(), l()>, blocks, kColumnThreads, column_shared_bytes<T, v(), l()>(), t);
  });
}

#ifdef SPLATSEG_INSTANTIATE  // for compile_check.py
template void launch_move_columns<float, float>(const ColumnTask<float, float>&, const Stream&);
template void launch_move_columns<float, Half>(const ColumnTask<float, Half>&, const Stream&);
template void launch_move_columns<double, double>(const ColumnTask<double, double>&, const Stream&);
#endif

}  // namespace splatseg::cuda
