// The transpose of blend and Adam in one gather, for a replayed step. Mirrors splatseg/ops/reference/columns.py.
//
// A view's pool lies in columns, one a Gaussian: the positions of its pixels among the view's shuffled rows, and its weights
// there. A step's batch is a window of those positions, so a column finds the rows of the gradient that it needs, adds them
// up in registers and moves its Gaussian at once: no atomics, no flags, no gradient of all Gaussians, the same bits always.
//
// Reading is a chain: positions, then weights and rows. Groups of L lanes take kAtOnce entries together, with the next
// positions on their way; longer columns are taken by all groups of a warp, the longest by those of a block.
#pragma once
#include "cuda/adam_kernels.cuh"
#include "cuda/blend_kernels.cuh"

namespace splatseg::cuda {

constexpr int kColumnThreads = 256;
constexpr int kColumnWarps = kColumnThreads / kWarp;
constexpr int kAtOnce = 4;  // 8 cost a third of the warps on an SM, by their registers

template <class T, class W>
struct ColumnTask {
  int64_t batch, steps, views, columns, entries, n, d;
  const int64_t* step;          // () number of the step
  const int* schedule;          // (steps, 2) view, and first of its shuffled rows
  const int64_t* view_start;    // (views + 1,) first of each view's rows
  const int64_t* view_columns;  // (views, 4) first column for a block, for a warp, for a group; end
  const int* ids;               // (columns,) Gaussian of each, once a view
  const int64_t* offsets;       // (columns + 1,) entries of each
  const int* positions;         // (entries,) among the shuffled rows of the view
  const W* weights;             // (entries,)
  const T* grad;                // (batch, d)
  const AdamScalars* rates;
  T* params;  // (n, d), as the next two
  T* exp_avg;
  T* exp_avg_sq;
  int64_t* bad;  // first row whose gradient is not finite, else as it was
  double beta1, beta2, eps, norm_scale;
  int64_t most[3];  // columns for blocks, warps and groups: the most of any view
};

// Which rows of the gradient the positions of a view have: a window, wrapped around.
struct BatchWindow {
  int first, count, rows;

  // -1 for positions outside, and for -1.
  __device__ int row(int position) const {
    int row = position - first;
    if (row < 0) row += count;
    return position >= 0 && (unsigned)row < (unsigned)rows ? row : -1;
  }
};

// A column as a lane of the G groups sees that take it. G is 1, all groups of a warp or all of a block.
template <class T, class W, int V, int L, int G>
struct ColumnTeam {
  static constexpr int kOwn = L < kAtOnce ? kAtOnce / L : 1;  // positions that a lane reads for its group
  static constexpr bool kWholeBlock = G * L > kWarp;

  const ColumnTask<T, W>& t;
  const BatchWindow& window;
  const int* positions = nullptr;
  const W* weights = nullptr;
  int size = 0;  // entries; a view has fewer than 2^31 rows, and a Gaussian one entry in each at most
  int id = -1;

  // Column `at`, or an empty one for nobody.
  __device__ ColumnTeam(const ColumnTask<T, W>& task, const BatchWindow& w, int64_t at, int64_t last) : t(task), window(w) {
    if (at < 0 || at >= last || at >= t.columns) return;
    id = t.ids[at];
    const int64_t begin = t.offsets[at], end = t.offsets[at + 1];
    if (begin < 0 || end > t.entries || id < 0 || id >= t.n) return;
    positions = t.positions + begin;
    weights = t.weights + begin;
    size = (int)(end - begin);
  }

  __device__ static int lane() { return threadIdx.x % kWarp; }
  __device__ static int sub() { return threadIdx.x % L; }

  __device__ void read_positions(int base, int (&position)[kOwn]) const {
#pragma unroll
    for (int k = 0; k < kOwn; k++) {
      const int slot = k * L + sub();
      position[k] = slot < kAtOnce && base + slot < size ? positions[base + slot] : -1;
    }
  }

  // Adds the entries that the group's lanes have read.
  __device__ void add_rows(const int (&own_row)[kOwn], const T (&own_weight)[kOwn], int c, Pack<T, V>& total) const {
    const int leader = lane() / L * L;
    Pack<T, V> grad[kAtOnce];  // all read before the first is used, so that their latencies overlap
#pragma unroll
    for (int j = 0; j < kAtOnce; j++) {
      const int row = __shfl_sync(kFullWarp, own_row[j / L], leader + j % L);
      grad[j] = zero_pack<T, V>();
      if (row >= 0 && c < t.d) grad[j] = *reinterpret_cast<const Pack<T, V>*>(t.grad + row * t.d + c);
    }
#pragma unroll
    for (int j = 0; j < kAtOnce; j++) {
      const T weight = __shfl_sync(kFullWarp, own_weight[j / L], leader + j % L);
#pragma unroll
      for (int v = 0; v < V; v++) total.value[v] += weight * grad[j].value[v];
    }
  }

  // Channels c.. of the column's gradient by this lane's group alone; touched becomes true at its first entry in the
  // window, where `early` is called. Every lane of the warp must call.
  template <class Early>
  __device__ Pack<T, V> own_sum(int c, bool& touched, const Early& early) const {
    auto total = zero_pack<T, V>();
    const int leader = lane() / L * L;
    int base = (int)(threadIdx.x / L % G) * kAtOnce;
    int position[kOwn];
    read_positions(base, position);
    while (__any_sync(kFullWarp, base < size)) {
      int own_row[kOwn];
      T own_weight[kOwn];
#pragma unroll
      for (int k = 0; k < kOwn; k++) {
        own_row[k] = window.row(position[k]);
        own_weight[k] = own_row[k] >= 0 ? (T)weight_of(weights[base + k * L + sub()]) : T(0);
      }
      base += G * kAtOnce;
      read_positions(base, position);
      bool own_hit = false;
#pragma unroll
      for (int k = 0; k < kOwn; k++) own_hit |= own_row[k] >= 0;
      const unsigned hits = __ballot_sync(kFullWarp, own_hit);
      if (hits == 0) continue;
      if (!touched && (hits >> leader & (kFullWarp >> (kWarp - L))) != 0) {
        touched = true;
        early();
      }
      add_rows(own_row, own_weight, c, total);
    }
    return total;
  }

  // The same by all groups, in an order that depends on nothing but the column; each lane gets it.
  template <class Early>
  __device__ Pack<T, V> sum(int c, bool& touched, const Early& early) const {
    auto total = own_sum(c, touched, early);
    if constexpr (G > 1) {
      touched = __any_sync(kFullWarp, touched);
#pragma unroll
      for (int step = L; step < kWarp; step *= 2) {
#pragma unroll
        for (int v = 0; v < V; v++) total.value[v] += __shfl_xor_sync(kFullWarp, total.value[v], step);
      }
    }
    if constexpr (kWholeBlock) total = sum_of_warps(total, touched);
    return total;
  }

  // Every thread of the block must call. Shared memory: see column_shared_bytes.
  __device__ static Pack<T, V> sum_of_warps(const Pack<T, V>& own, bool& touched) {
    auto* parts = reinterpret_cast<Pack<T, V>*>(dynamic_shared());
    int* flags = reinterpret_cast<int*>(parts + kColumnWarps * L);
    const int warp = threadIdx.x / kWarp;
    if (lane() < L) parts[warp * L + lane()] = own;
    if (lane() == 0) flags[warp] = touched;
    __syncthreads();
    auto total = zero_pack<T, V>();
    touched = false;
    for (int w = 0; w < kColumnWarps; w++) {
      touched |= flags[w] != 0;
      const Pack<T, V> part = parts[w * L + sub()];
#pragma unroll
      for (int v = 0; v < V; v++) total.value[v] += part.value[v];
    }
    __syncthreads();  // the next channels' parts go to the same place
    return total;
  }

  // Channels c.. of the gradient, and where the row moves its feature and moments.
  __device__ AdamPack<T, V> gathered(int c, bool moves) const {
    AdamPack<T, V> pack;
    bool touched = false;
    pack.g = sum(c, touched, [] {});
    if (moves && c < t.d) pack.load_state(t, id * t.d + c);
    return pack;
  }

  // Sums the gradient and, where any entry lies in the window, moves the Gaussian. Channels beyond the first V L are
  // gathered twice: the norm and whether all is finite must be known before any is stored.
  __device__ void move_row(const AdamScalars& scalars) const {
    const int64_t at = (int64_t)id * t.d;
    const int c = sub() * V;
    const bool leads = threadIdx.x / L % G == 0 && id >= 0;
    AdamPack<T, V> first;
    bool touched = false;
    first.g = sum(c, touched, [&] {
      if (G == 1 && c < t.d) first.load_state(t, at + c);  // on its way while the gradient is
    });
    if (!__any_sync(kFullWarp, touched)) return;  // in a whole block's column all say the same
    const bool live = touched && leads;
    if (G > 1 && live && c < t.d) first.load_state(t, at + c);
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

// A block for each of the longest columns of the view, then a warp for each of the long ones, then a group each. Blocks
// beyond those that the view needs have nothing to do.
template <class T, class W, int V, int L>
__global__ void __launch_bounds__(kColumnThreads, sizeof(T) == 4 ? 3 : 2) move_columns(ColumnTask<T, W> t) {
  const int64_t step = *t.step;
  if (step < 0 || step >= t.steps) return;
  const int view = t.schedule[2 * step], start = t.schedule[2 * step + 1];
  if (view < 0 || view >= t.views) return;
  const AdamScalars scalars = *t.rates;
  const int count = (int)(t.view_start[view + 1] - t.view_start[view]);
  if (count <= 0) return;
  const BatchWindow window{start % count, count, t.batch < count ? (int)t.batch : count};
  const int64_t* bounds = t.view_columns + 4 * view;
  int64_t block = blockIdx.x;
  if (block < bounds[1] - bounds[0]) {
    return ColumnTeam<T, W, V, L, kColumnThreads / L>(t, window, bounds[0] + block, bounds[1]).move_row(scalars);
  }
  block -= bounds[1] - bounds[0];
  const int64_t warp_blocks = (bounds[2] - bounds[1] + kColumnWarps - 1) / kColumnWarps;
  if (block < warp_blocks) {
    const int64_t at = bounds[1] + block * kColumnWarps + threadIdx.x / kWarp;
    return ColumnTeam<T, W, V, L, kWarp / L>(t, window, at, bounds[2]).move_row(scalars);
  }
  const int64_t at = bounds[2] + (block - warp_blocks) * (kColumnThreads / L) + threadIdx.x / L;
  ColumnTeam<T, W, V, L, 1>(t, window, at, bounds[3]).move_row(scalars);
}

template <class T, int V, int L>
constexpr int64_t column_shared_bytes() {
  return kColumnWarps * (L * sizeof(Pack<T, V>) + sizeof(int));
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
