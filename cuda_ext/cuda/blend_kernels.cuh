// Features of pixels as a sparse product, and its transpose. Mirrors splatseg/ops/reference/blend.py.
//
// One warp a row of the product. It loads 32 entries at a time, one a lane, and hands them round; groups of L lanes then
// take an entry each, a lane V channels of it, so that 16 float channels are four 16-byte loads and eight entries are in
// flight. Entries beyond the row, rows and ids out of range are left out: asking would cost a synchronization.
#pragma once
#include "cuda/device.cuh"

namespace splatseg::cuda {

constexpr int kBlendThreads = 256;

// Weights in memory: float16 is read by its bits, so that no header beyond cuda_runtime.h is needed.
struct Half {
  uint16_t bits;
};
__device__ inline float weight_of(float w) { return w; }
__device__ inline double weight_of(double w) { return w; }
__device__ inline float weight_of(Half h) {
  const uint32_t sign = (uint32_t)(h.bits & 0x8000) << 16, rest = h.bits & 0x7fff;
  // Exponent and mantissa moved into place; the product rebiases the exponent and is exact for subnormals too.
  union {
    uint32_t bits;
    float value;
  } wide, scale;
  wide.bits = rest << 13;
  scale.bits = (254u - 15u) << 23;  // 2^112
  wide.value *= scale.value;
  if (rest >= 0x7c00) wide.bits |= 0x7f800000u;
  wide.bits |= sign;
  return wide.value;
}

template <class T, class W>
struct BlendTask {
  int64_t rows, csr_rows, entries, n, d;  // rows of the result
  const int64_t* offsets;  // (csr_rows + 1,)
  const int* ids;          // (entries,)
  const W* weights;        // (entries,)
  const int64_t* chosen;   // (rows,) CSR row of each, or null for all
  const T* matrix;         // features (n, d) of blend, gradients (rows, d) of its transpose
  T* out;                  // (rows, d) of blend; (n, d) of the transpose, added to
  uint8_t* touched;        // (n,) set to 1 where an entry leads; may be null
};

// What the warps of a row have in common.
struct RowRange {
  int64_t row, begin, end;
};

template <class T, class W>
__device__ RowRange range_of(const BlendTask<T, W>& t, int64_t row, int64_t source) {
  if (source < 0 || source >= t.csr_rows) return {row, 0, 0};
  const int64_t begin = t.offsets[source], end = t.offsets[source + 1];
  return {row, begin < 0 ? 0 : begin, end > t.entries ? t.entries : end};
}

template <class T, class W>
__device__ RowRange row_range(const BlendTask<T, W>& t) {
  const int64_t row = ((int64_t)blockIdx.x * kBlendThreads + threadIdx.x) / kWarp;
  if (row >= t.rows) return {row, 0, 0};
  return range_of(t, row, t.chosen ? t.chosen[row] : row);
}

template <class T, int V>
__device__ Pack<T, V> zero_pack() {
  Pack<T, V> pack;
#pragma unroll
  for (int v = 0; v < V; v++) pack.value[v] = 0;
  return pack;
}

// Entries [base, base + kWarp) of a row as this lane's group of L lanes takes them, in order. The warp reads them together;
// own_id is this lane's. Those beyond the row or out of range have id -1 and weight 0.
template <class T, int L>
struct GroupEntries {
  int id[L];
  T weight[L];

  template <class W>
  __device__ GroupEntries(const BlendTask<T, W>& t, const RowRange& r, int64_t base, int own_id) {
    const int lane = threadIdx.x % kWarp, group = lane / L;
    const int usable = own_id >= 0 && own_id < t.n ? own_id : -1;
    const T own_weight = usable >= 0 ? (T)weight_of(t.weights[base + lane]) : T(0);
#pragma unroll
    for (int k = 0; k < L; k++) {
      id[k] = __shfl_sync(kFullWarp, usable, k * (kWarp / L) + group);
      weight[k] = __shfl_sync(kFullWarp, own_weight, k * (kWarp / L) + group);
    }
  }
};

// Channels c.. of the sum of weights[k] * matrix[ids[k]] over a row, in an order that depends on nothing but its length; all
// groups of the warp get it. Whole warps only.
template <class T, class W, int V, int L>
__device__ Pack<T, V> row_sum(const BlendTask<T, W>& t, const RowRange& r, int64_t c) {
  const int lane = threadIdx.x % kWarp;
  auto sum = zero_pack<T, V>();
  for (int64_t base = r.begin; base < r.end; base += kWarp) {
    const GroupEntries<T, L> entries(t, r, base, base + lane < r.end ? t.ids[base + lane] : -1);
    Pack<T, V> feature[L];  // all read before the first is used, so that their latencies overlap
#pragma unroll
    for (int k = 0; k < L; k++) {
      feature[k] = zero_pack<T, V>();
      if (entries.id[k] >= 0 && c < t.d) {
        feature[k] = *reinterpret_cast<const Pack<T, V>*>(t.matrix + entries.id[k] * t.d + c);
      }
    }
#pragma unroll
    for (int k = 0; k < L; k++) {
#pragma unroll
      for (int v = 0; v < V; v++) sum.value[v] += entries.weight[k] * feature[k].value[v];
    }
  }
#pragma unroll
  for (int step = L; step < kWarp; step *= 2) {
#pragma unroll
    for (int v = 0; v < V; v++) sum.value[v] += __shfl_xor_sync(kFullWarp, sum.value[v], step);
  }
  return sum;
}

// out[row] = sum of weights[k] * matrix[ids[k]].
template <class T, class W, int V, int L>
__global__ void blend_rows(BlendTask<T, W> t) {
  const int lane = threadIdx.x % kWarp, group = lane / L, sub = lane % L;
  const RowRange r = row_range(t);
  if (r.row >= t.rows) return;
  for (int64_t first = 0; first < t.d; first += V * L) {
    const int64_t c = first + sub * V;
    const auto sum = row_sum<T, W, V, L>(t, r, c);
    if (group == 0 && c < t.d) *reinterpret_cast<Pack<T, V>*>(t.out + r.row * t.d + c) = sum;
  }
}

template <class T, int V>
__device__ void add_atomically(T* at, const Pack<T, V>& x) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  if constexpr (V == 4 && sizeof(T) == 4) {  // one instruction from Hopper on
    atomicAdd(reinterpret_cast<float4*>(at), make_float4(x.value[0], x.value[1], x.value[2], x.value[3]));
    return;
  }
#endif
#pragma unroll
  for (int v = 0; v < V; v++) atomicAdd(at + v, x.value[v]);
}

// out[ids[k]] += weights[k] * matrix[row], in order of arrival. Rows whose gradient is zero (samples that the loss leaves
// out) only mark what they touch.
template <class T, class W, int V, int L>
__global__ void scatter_rows(BlendTask<T, W> t) {
  const int lane = threadIdx.x % kWarp, sub = lane % L;
  const RowRange r = row_range(t);
  if (r.row >= t.rows) return;
  for (int64_t first = 0; first < t.d; first += V * L) {
    const int64_t c = first + sub * V;
    auto grad = zero_pack<T, V>();
    if (c < t.d) grad = *reinterpret_cast<const Pack<T, V>*>(t.matrix + r.row * t.d + c);
    bool any = false;
#pragma unroll
    for (int v = 0; v < V; v++) any |= grad.value[v] != 0;
    any = __any_sync(kFullWarp, any);
    for (int64_t base = r.begin; base < r.end; base += kWarp) {
      const int own_id = base + lane < r.end ? t.ids[base + lane] : -1;
      if (first == 0 && t.touched && own_id >= 0 && own_id < t.n) t.touched[own_id] = 1;
      if (!any) continue;
      const GroupEntries<T, L> entries(t, r, base, own_id);
#pragma unroll
      for (int k = 0; k < L; k++) {
        if (entries.id[k] < 0 || c >= t.d) continue;
        Pack<T, V> term;
#pragma unroll
        for (int v = 0; v < V; v++) term.value[v] = entries.weight[k] * grad.value[v];
        add_atomically(t.out + entries.id[k] * t.d + c, term);
      }
    }
  }
}

// The transpose in a fixed order: entries sorted by Gaussian, stably, and one warp for each run of equal ones.
template <class T, class W>
struct SortedTask {
  int64_t entries, n, d;
  const int* ids;          // (entries,) rising
  const int64_t* source;   // (entries,) entry of `weights` in each place
  const int64_t* row;      // (entries,) row of `grad` in each place
  const W* weights;
  const T* grad;
  T* out;                  // (n, d), added to
  uint8_t* touched;        // (n,); may be null
};

template <class T, class W>
__global__ void sum_runs(SortedTask<T, W> t) {
  const int64_t place = ((int64_t)blockIdx.x * kBlendThreads + threadIdx.x) / kWarp;
  const int lane = threadIdx.x % kWarp;
  if (place >= t.entries) return;
  const int id = t.ids[place];
  if (id < 0 || id >= t.n || (place > 0 && t.ids[place - 1] == id)) return;
  if (lane == 0 && t.touched) t.touched[id] = 1;
  for (int64_t c = lane; c < t.d; c += kWarp) {
    T sum = 0;
    for (int64_t k = place; k < t.entries && t.ids[k] == id; k++) {
      sum += (T)weight_of(t.weights[t.source[k]]) * t.grad[t.row[k] * t.d + c];
    }
    t.out[id * t.d + c] += sum;
  }
}

inline int64_t warp_blocks(int64_t rows) { return (rows * kWarp + kBlendThreads - 1) / kBlendThreads; }

// For rows > 0 and d > 0.
template <class T, class W>
void launch_blend(const BlendTask<T, W>& t, const Stream& stream) {
  with_row_layout<T>(t.d, [&](auto v, auto l) {
    stream.launch(blend_rows<T, W, v(), l()>, warp_blocks(t.rows), kBlendThreads, 0, t);
  });
}
template <class T, class W>
void launch_scatter(const BlendTask<T, W>& t, const Stream& stream) {
  with_row_layout<T>(t.d, [&](auto v, auto l) {
    stream.launch(scatter_rows<T, W, v(), l()>, warp_blocks(t.rows), kBlendThreads, 0, t);
  });
}
template <class T, class W>
void launch_sum_runs(const SortedTask<T, W>& t, const Stream& stream) {
  stream.launch(sum_runs<T, W>, warp_blocks(t.entries), kBlendThreads, 0, t);
}

#ifdef SPLATSEG_INSTANTIATE  // for compile_check.py
template void launch_blend<float, float>(const BlendTask<float, float>&, const Stream&);
template void launch_blend<float, Half>(const BlendTask<float, Half>&, const Stream&);
template void launch_blend<double, double>(const BlendTask<double, double>&, const Stream&);
template void launch_scatter<float, float>(const BlendTask<float, float>&, const Stream&);
template void launch_scatter<float, Half>(const BlendTask<float, Half>&, const Stream&);
template void launch_scatter<double, double>(const BlendTask<double, double>&, const Stream&);
template void launch_sum_runs<float, float>(const SortedTask<float, float>&, const Stream&);
template void launch_sum_runs<float, Half>(const SortedTask<float, Half>&, const Stream&);
template void launch_sum_runs<double, double>(const SortedTask<double, double>&, const Stream&);
#endif

}  // namespace splatseg::cuda
