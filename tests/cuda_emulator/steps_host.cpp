// The CUDA kernels of blend, its transposes and the Adam steps, on the host emulator.
#include "cuda/adam_kernels.cuh"
#include "cuda/blend_kernels.cuh"

using namespace splatseg::cuda;

namespace {

// sizes: rows, csr_rows, entries, n, d.
template <class T, class W>
BlendTask<T, W> blend_task(const int64_t* sizes, const void* const* in, T* out, uint8_t* touched) {
  return {sizes[0],       sizes[1], sizes[2], sizes[3], sizes[4], static_cast<const int64_t*>(in[0]),
          static_cast<const int*>(in[1]), static_cast<const W*>(in[2]), static_cast<const int64_t*>(in[3]),
          static_cast<const T*>(in[4]), out, touched};
}

template <class T, class W>
void blend_both(int which, const int64_t* sizes, const void* const* in, T* out, uint8_t* touched) {
  const auto t = blend_task<T, W>(sizes, in, out, touched);
  which == 0 ? launch_blend(t, Stream()) : launch_scatter(t, Stream());
}

template <class T, class W>
void runs(const int64_t* sizes, const void* const* in, T* out, uint8_t* touched) {
  launch_sum_runs(SortedTask<T, W>{sizes[2], sizes[3], sizes[4], static_cast<const int*>(in[0]),
                                   static_cast<const int64_t*>(in[1]), static_cast<const int64_t*>(in[2]),
                                   static_cast<const W*>(in[3]), static_cast<const T*>(in[4]), out, touched},
                  Stream());
}

template <class T>
void adam(const int64_t* sizes, T* const* state, uint8_t* rows, const T* lr, const double* scalars, const double* on_device,
          int64_t* bad) {
  launch_adam(AdamTask<T>{sizes[0], sizes[1], state[0], state[1], state[2], state[3], rows, lr,
                          {scalars[0], scalars[1]}, reinterpret_cast<const AdamScalars*>(on_device), bad,
                          scalars[2], scalars[3], scalars[4], scalars[5], sizes[2] != 0},
              Stream());
}

}  // namespace

// types: 0 float beside float weights, 1 float beside half, 2 double. which: 0 blend, 1 transpose.
extern "C" void blend_any(int types, int which, const int64_t* sizes, const void* const* in, void* out, uint8_t* touched) {
  if (types == 0) blend_both<float, float>(which, sizes, in, static_cast<float*>(out), touched);
  if (types == 1) blend_both<float, Half>(which, sizes, in, static_cast<float*>(out), touched);
  if (types == 2) blend_both<double, double>(which, sizes, in, static_cast<double*>(out), touched);
}
extern "C" void sum_runs_any(int types, const int64_t* sizes, const void* const* in, void* out, uint8_t* touched) {
  if (types == 0) runs<float, float>(sizes, in, static_cast<float*>(out), touched);
  if (types == 1) runs<float, Half>(sizes, in, static_cast<float*>(out), touched);
  if (types == 2) runs<double, double>(sizes, in, static_cast<double*>(out), touched);
}
extern "C" float half_to_float(uint16_t bits) { return weight_of(Half{bits}); }
// sizes: n, d, clears. state: parameters, averages, gradient; scalars: the step's two, betas, eps, scale of the norm term.
extern "C" void adam_any(int wide, const int64_t* sizes, void* const* state, uint8_t* rows, const void* lr,
                         const double* scalars, const double* on_device, int64_t* bad) {
  if (wide) adam(sizes, reinterpret_cast<double* const*>(state), rows, static_cast<const double*>(lr), scalars, on_device, bad);
  else adam(sizes, reinterpret_cast<float* const*>(state), rows, static_cast<const float*>(lr), scalars, on_device, bad);
}
