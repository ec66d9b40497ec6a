// The CUDA kernel of the transpose of blend with Adam over a batch's columns, on the host emulator.
#include "cuda/columns_kernels.cuh"

using namespace splatseg::cuda;

namespace {

// sizes: rows, steps, batches, columns, entries, n, d, and the most columns of each kind. in: as the task has them. state:
// parameters and both averages. settings: both betas, eps, norm_scale.
template <class T, class W>
void run(const int64_t* sizes, const void* const* in, void* const* state, int64_t* bad, const double* settings) {
  ColumnTask<T, W> t{sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], sizes[5], sizes[6]};
  t.cells = static_cast<const int64_t*>(in[0]);
  t.batch_columns = static_cast<const int64_t*>(in[1]);
  t.batch_entries = static_cast<const int64_t*>(in[2]);
  t.ids = static_cast<const int*>(in[3]);
  t.offsets = static_cast<const int*>(in[4]);
  t.positions = static_cast<const int*>(in[5]);
  t.weights = static_cast<const W*>(in[6]);
  t.grad = static_cast<const T*>(in[7]);
  t.rates = static_cast<const AdamScalars*>(in[8]);
  t.params = static_cast<T*>(state[0]);
  t.exp_avg = static_cast<T*>(state[1]);
  t.exp_avg_sq = static_cast<T*>(state[2]);
  t.bad = bad;
  t.beta1 = settings[0];
  t.beta2 = settings[1];
  t.eps = settings[2];
  t.norm_scale = settings[3];
  for (int k = 0; k < 3; k++) t.most[k] = sizes[7 + k];
  launch_move_columns(t, Stream());
}

}  // namespace

// types: 0 float beside float weights, 1 float beside half, 2 double.
extern "C" void move_columns_any(int types, const int64_t* sizes, const void* const* in, void* const* state, int64_t* bad,
                                 const double* settings) {
  if (types == 0) run<float, float>(sizes, in, state, bad, settings);
  if (types == 1) run<float, Half>(sizes, in, state, bad, settings);
  if (types == 2) run<double, double>(sizes, in, state, bad, settings);
}
