// Adam over rows of a parameter. Mirrors splatseg/ops/reference/adam.py.
//
// Where a row must be seen whole (the norm term, gradients that may not be finite) or is cleared, the rows are few and scattered:
// a warp looks at 32 flags at once, lists the rows that are set, and shares them out to groups of lanes that each hold a row in
// 16-byte pieces. Else most rows move, and a value has a thread of its own.
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
struct AdamTask {
  int64_t n, d;
  T* params;      // (n, d), as the next three
  T* exp_avg;
  T* exp_avg_sq;
  T* grad;
  uint8_t* rows;  // (n,): those to move, or null for all
  const T* lr;    // (d,), which multiplies the step's size, or null
  AdamScalars scalars;
  const AdamScalars* on_device;  // in place of `scalars` where not null: what a replayed graph reads anew
  int64_t* bad;  // becomes the least row, if lower, whose gradient is not finite; such rows stay. Null: nobody asks
  double beta1, beta2, eps, norm_scale;
  bool clears;  // gradients and flags of the rows are zeroed
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

// V channels of a row: feature, gradient and moments. A Task has the matrices and settings of AdamTask.
template <class T, int V>
struct AdamPack {
  Pack<T, V> f{}, g{}, m{}, q{};

  template <class Task>
  __device__ void load_state(const Task& t, int64_t at) {
    f = *reinterpret_cast<const Pack<T, V>*>(t.params + at);
    m = *reinterpret_cast<const Pack<T, V>*>(t.exp_avg + at);
    q = *reinterpret_cast<const Pack<T, V>*>(t.exp_avg_sq + at);
  }
  // Moves the feature and its moments along the gradient, to which `pull` times the feature is added. `lr`: the rates of these
  // channels, or null.
  template <class Task>
  __device__ void move(const Task& t, const AdamScalars& s, int64_t at, T pull, const T* lr = nullptr) {
    const T beta1 = (T)t.beta1, beta2 = (T)t.beta2, eps = (T)t.eps, rate = (T)s.step_size, scale = (T)s.v_scale;
    const T rest1 = (T)(1 - t.beta1), rest2 = (T)(1 - t.beta2);  // subtracted in T, 1 - 0.999 keeps four digits
#pragma unroll
    for (int v = 0; v < V; v++) {
      const T gradient = pull == 0 ? g.value[v] : g.value[v] + pull * f.value[v];
      m.value[v] = beta1 * m.value[v] + rest1 * gradient;
      q.value[v] = beta2 * q.value[v] + rest2 * gradient * gradient;
      f.value[v] -= (lr ? lr[v] * rate : rate) * m.value[v] / (root_of(q.value[v]) * scale + eps);
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
    if (sub == 0) atomicMin((long long*)t.bad, (long long)row);
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
__device__ void update_row(const AdamTask<T>& t, AdamScalars s, int64_t row, bool live, int sub) {
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
  const bool moves = !t.bad || sums.finite(t, row, sub);
  const T pull = sums.pull(t);
  const auto store = [&](AdamPack<T, V>& pack, int64_t c) {
    if (moves) pack.move(t, s, row * t.d + c, pull, t.lr ? t.lr + c : nullptr);
    if (t.clears) *reinterpret_cast<Pack<T, V>*>(t.grad + row * t.d + c) = Pack<T, V>{};
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
__global__ void adam_rows(AdamTask<T> t) {
  constexpr int kGroups = kWarp / L;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  int* listed = reinterpret_cast<int*>(dynamic_shared()) + warp * kWarp;
  const int64_t first = ((int64_t)blockIdx.x * kAdamThreads / kWarp + warp) * kWarp;
  const AdamScalars scalars = t.on_device ? *t.on_device : t.scalars;
  const bool own = first + lane < t.n && (!t.rows || t.rows[first + lane] != 0);
  const unsigned set = __ballot_sync(kFullWarp, own);
  if (set == 0) return;
  if (own) {
    listed[__popc(set & ((1u << lane) - 1))] = lane;
    if (t.clears && t.rows) t.rows[first + lane] = 0;
  }
  __syncwarp();
  const int count = __popc(set);
  for (int k = 0; k < count; k += kGroups) {
    const int place = k + lane / L;
    const bool live = place < count;
    update_row<T, V, L>(t, scalars, live ? first + listed[place] : 0, live, lane % L);
  }
}

// One value per thread; neighboring threads have neighboring values.
template <class T>
__global__ void adam_values(AdamTask<T> t) {
  const int64_t i = (int64_t)blockIdx.x * kAdamThreads + threadIdx.x;
  if (i >= t.n * t.d || (t.rows && !t.rows[i / t.d])) return;
  const AdamScalars s = t.on_device ? *t.on_device : t.scalars;
  const T g = t.grad[i];
  const T mean = (T)t.beta1 * t.exp_avg[i] + (T)(1 - t.beta1) * g;
  const T square = (T)t.beta2 * t.exp_avg_sq[i] + (T)(1 - t.beta2) * g * g;
  t.exp_avg[i] = mean;
  t.exp_avg_sq[i] = square;
  const T rate = (t.lr ? t.lr[i % t.d] : T(1)) * (T)s.step_size;
  t.params[i] -= rate * mean / (root_of(square) * (T)s.v_scale + (T)t.eps);
}

// For n > 0 and d > 0.
template <class T>
void launch_adam(const AdamTask<T>& t, const Stream& stream) {
  if (!t.bad && !t.clears && t.norm_scale == 0)
    return stream.launch(adam_values<T>, (t.n * t.d + kAdamThreads - 1) / kAdamThreads, kAdamThreads, 0, t);
  const int64_t blocks = (t.n + kAdamThreads - 1) / kAdamThreads;
  with_row_layout<T>(t.d, [&](auto v, auto l) {
    stream.launch(adam_rows<T, v(), l()>, blocks, kAdamThreads, kAdamThreads * sizeof(int), t);
  });
}

#ifdef SPLATSEG_INSTANTIATE  // for compile_check.py
template void launch_adam<float>(const AdamTask<float>&, const Stream&);
template void launch_adam<double>(const AdamTask<double>&, const Stream&);
#endif

}  // namespace splatseg::cuda
