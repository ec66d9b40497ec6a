// Adam over touched rows of a feature field, and over drawn rows of a parameter. Mirror splatseg/ops/reference/adam.py and
// visible_adam.py.
//
// Touched rows are few and scattered: a warp looks at 32 flags at once, lists the rows that are set, and shares them out
// to groups of lanes that each hold a row in 16-byte pieces.
#pragma once
#include "cuda/device.cuh"

namespace splatseg::cuda {

constexpr int kAdamThreads = 256;
constexpr int64_t kNoRow = INT64_MAX;

struct AdamScalars {
  double step_size;  // lr / (1 - beta1^step)
  double v_scale;    // 1 / sqrt(1 - beta2^step)
};

template <class T>
struct SparseAdamTask {
  int64_t n, d;
  T* params;      // (n, d), as the next three
  T* exp_avg;
  T* exp_avg_sq;
  T* grad;        // cleared where touched
  uint8_t* touched;  // (n,), cleared
  AdamScalars scalars;
  const AdamScalars* on_device;  // in place of `scalars` where not null: what a replayed graph reads anew
  int64_t* bad;                  // first row whose gradient is not finite, else as it was (kNoRow); may be null
  double beta1, beta2, eps, norm_scale;
};

__device__ inline float root_of(float x) { return sqrtf(x); }
__device__ inline double root_of(double x) { return sqrt(x); }

// Sum over the L lanes of a group; every lane of the warp must call.
template <int L, class T>
__device__ T group_sum(T x) {
#pragma unroll
  for (int step = L / 2; step > 0; step /= 2) x += __shfl_xor_sync(kFullWarp, x, step);
  return x;
}

// V channels of a row: feature, gradient and moments. A Task has the matrices and settings of SparseAdamTask.
template <class T, int V>
struct AdamPack {
  Pack<T, V> f{}, g{}, m{}, q{};

  template <class Task>
  __device__ void load_state(const Task& t, int64_t at) {
    f = *reinterpret_cast<const Pack<T, V>*>(t.params + at);
    m = *reinterpret_cast<const Pack<T, V>*>(t.exp_avg + at);
    q = *reinterpret_cast<const Pack<T, V>*>(t.exp_avg_sq + at);
  }
  // Moves the feature and its moments along the gradient, to which `pull` times the feature is added.
  template <class Task>
  __device__ void move(const Task& t, const AdamScalars& s, int64_t at, T pull) {
    const T beta1 = (T)t.beta1, beta2 = (T)t.beta2, eps = (T)t.eps, rate = (T)s.step_size, scale = (T)s.v_scale;
    const T rest1 = (T)(1 - t.beta1), rest2 = (T)(1 - t.beta2);  // subtracted in T, 1 - 0.999 keeps four digits
#pragma unroll
    for (int v = 0; v < V; v++) {
      const T gradient = g.value[v] + pull * f.value[v];
      m.value[v] = beta1 * m.value[v] + rest1 * gradient;
      q.value[v] = beta2 * q.value[v] + rest2 * gradient * gradient;
      f.value[v] -= rate * m.value[v] / (root_of(q.value[v]) * scale + eps);
    }
    *reinterpret_cast<Pack<T, V>*>(t.params + at) = f;
    *reinterpret_cast<Pack<T, V>*>(t.exp_avg + at) = m;
    *reinterpret_cast<Pack<T, V>*>(t.exp_avg_sq + at) = q;
  }
};

// What the update of a row must know of all its channels, which L lanes hold.
template <class T, int L>
struct RowSums {
  T square = 0, probe = 0;  // 0 times a non-finite number is not 0

  template <int V>
  __device__ void add(const AdamPack<T, V>& pack) {
#pragma unroll
    for (int v = 0; v < V; v++) {
      square += pack.f.value[v] * pack.f.value[v];
      probe += pack.g.value[v] * T(0);
    }
  }
  // Every lane of the warp must call.
  __device__ void share() {
    square = group_sum<L>(square);
    probe = group_sum<L>(probe);
  }
  // Whether the row's gradient is finite; lane 0 of those that hold it tells of one that is not.
  template <class Task>
  __device__ bool finite(const Task& t, int64_t row, int sub) const {
    if (probe == 0) return true;
    if (sub == 0 && t.bad) atomicMin((long long*)t.bad, (long long)row);
    return false;
  }
  // The norm term's gradient is this times the feature.
  template <class Task>
  __device__ T pull(const Task& t) const {
    const T norm = root_of(square);
    return t.norm_scale != 0 && norm > 0 ? (T)t.norm_scale * (1 - 1 / norm) : T(0);
  }
};

// A row by L lanes, V channels each at a time. Lanes without a row (live = false) take part in the shuffles alone. A lane's
// first pack is read whole before anything is waited for; rows of up to V L channels have no second.
template <class T, int V, int L>
__device__ void update_row(const SparseAdamTask<T>& t, AdamScalars s, int64_t row, bool live, int sub) {
  const auto load = [&](AdamPack<T, V>& pack, int64_t c) {
    pack.load_state(t, row * t.d + c);
    pack.g = *reinterpret_cast<const Pack<T, V>*>(t.grad + row * t.d + c);
  };
  AdamPack<T, V> first;
  RowSums<T, L> sums;
  if (live && sub * V < t.d) load(first, sub * V);
  sums.add(first);
  for (int64_t c = (sub + L) * V; live && c < t.d; c += V * L) {
    AdamPack<T, V> more;
    load(more, c);
    sums.add(more);
  }
  sums.share();
  if (!live) return;
  const bool finite = sums.finite(t, row, sub);
  const T pull = sums.pull(t);
  const auto store = [&](AdamPack<T, V>& pack, int64_t c) {
    if (finite) pack.move(t, s, row * t.d + c, pull);
    *reinterpret_cast<Pack<T, V>*>(t.grad + row * t.d + c) = Pack<T, V>{};
  };
  if (sub * V < t.d) store(first, sub * V);
  for (int64_t c = (sub + L) * V; c < t.d; c += V * L) {
    AdamPack<T, V> more;
    load(more, c);
    store(more, c);
  }
}

// One warp for 32 rows. Shared memory: 32 row numbers a warp.
template <class T, int V, int L>
__global__ void sparse_adam_rows(SparseAdamTask<T> t) {
  constexpr int kGroups = kWarp / L;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  int* listed = reinterpret_cast<int*>(dynamic_shared()) + warp * kWarp;
  const int64_t first = ((int64_t)blockIdx.x * kAdamThreads / kWarp + warp) * kWarp;
  const AdamScalars scalars = t.on_device ? *t.on_device : t.scalars;
  const bool own = first + lane < t.n && t.touched[first + lane] != 0;
  const unsigned set = __ballot_sync(kFullWarp, own);
  if (set == 0) return;
  if (own) {
    listed[__popc(set & ((1u << lane) - 1))] = lane;
    t.touched[first + lane] = 0;
  }
  __syncwarp();
  const int count = __popc(set);
  for (int k = 0; k < count; k += kGroups) {
    const int place = k + lane / L;
    const bool live = place < count;
    update_row<T, V, L>(t, scalars, live ? first + listed[place] : 0, live, lane % L);
  }
}

template <class T>
struct VisibleAdamTask {
  int64_t n, k;
  T* param;  // (n, k), as the next three
  const T* grad;
  T* mean;
  T* square;
  const T* lr;          // (k,)
  const bool* visible;  // (n,) or null for all
  double beta1, beta2, eps, rate, root;  // rate: 1 / (1 - beta1^step), root: 1 / sqrt(1 - beta2^step)
};

// One value a thread; neighbouring threads have neighbouring values.
template <class T>
__global__ void visible_adam_values(VisibleAdamTask<T> t) {
  const int64_t i = (int64_t)blockIdx.x * kAdamThreads + threadIdx.x;
  if (i >= t.n * t.k || (t.visible && !t.visible[i / t.k])) return;
  const T g = t.grad[i];
  const T mean = (T)t.beta1 * t.mean[i] + (T)(1 - t.beta1) * g;
  const T square = (T)t.beta2 * t.square[i] + (T)(1 - t.beta2) * g * g;
  t.mean[i] = mean;
  t.square[i] = square;
  t.param[i] -= t.lr[i % t.k] * (T)t.rate * mean / (root_of(square) * (T)t.root + (T)t.eps);
}

// For n > 0 and d > 0.
template <class T>
void launch_sparse_adam(const SparseAdamTask<T>& t, const Stream& stream) {
  const int64_t blocks = (t.n + kAdamThreads - 1) / kAdamThreads;
  with_row_layout<T>(t.d, [&](auto v, auto l) {
    stream.launch(sparse_adam_rows<T, v(), l()>, blocks, kAdamThreads, kAdamThreads * sizeof(int), t);
  });
}
template <class T>
void launch_visible_adam(const VisibleAdamTask<T>& t, const Stream& stream) {
  stream.launch(visible_adam_values<T>, (t.n * t.k + kAdamThreads - 1) / kAdamThreads, kAdamThreads, 0, t);
}

#ifdef SPLATSEG_INSTANTIATE  // for compile_check.py
template void launch_sparse_adam<float>(const SparseAdamTask<float>&, const Stream&);
template void launch_sparse_adam<double>(const SparseAdamTask<double>&, const Stream&);
template void launch_visible_adam<float>(const VisibleAdamTask<float>&, const Stream&);
template void launch_visible_adam<double>(const VisibleAdamTask<double>&, const Stream&);
#endif

}  // namespace splatseg::cuda
