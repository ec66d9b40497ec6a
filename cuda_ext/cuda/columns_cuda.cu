// splatseg::pooled_transpose_adam_ on CUDA: checks and the launch.
#include "cuda/columns_kernels.cuh"

#include <ATen/ATen.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <torch/library.h>

#include <algorithm>

#include "columns_checks.h"
#include "cuda/stream.h"

namespace splatseg {
namespace {

using at::Tensor;

struct Settings {
  double beta1, beta2, eps, norm_weight;
};

template <class T, class W>
void launch(const ColumnTensors& c, const Settings& s) {
  cuda::ColumnTask<T, W> t{};
  t.rows = c.grad.size(0);
  t.steps = c.rates.size(0);
  t.batches = c.batch_columns.size(0);
  t.columns = c.ids.size(0);
  t.entries = c.positions.size(0);
  t.n = c.params.size(0);
  t.d = c.params.size(1);
  t.cells = c.cells.const_data_ptr<int64_t>();
  t.batch_columns = c.batch_columns.const_data_ptr<int64_t>();
  t.batch_entries = c.batch_entries.const_data_ptr<int64_t>();
  t.ids = c.ids.const_data_ptr<int>();
  t.offsets = c.offsets.const_data_ptr<int>();
  t.positions = c.positions.const_data_ptr<int>();
  t.weights = static_cast<const W*>(c.weights.const_data_ptr());
  t.grad = c.grad.const_data_ptr<T>();
  t.rates = reinterpret_cast<const cuda::AdamScalars*>(c.rates.const_data_ptr<double>());
  t.params = c.params.mutable_data_ptr<T>();
  t.exp_avg = c.exp_avg.mutable_data_ptr<T>();
  t.exp_avg_sq = c.exp_avg_sq.mutable_data_ptr<T>();
  t.bad = c.bad.mutable_data_ptr<int64_t>();
  t.beta1 = s.beta1;
  t.beta2 = s.beta2;
  t.eps = s.eps;
  t.norm_scale = 2 * s.norm_weight / static_cast<double>(t.n);
  std::copy(c.most.begin(), c.most.end(), t.most);
  cuda::launch_move_columns(t, current_stream());
}

void pooled_transpose_adam_cuda_(const Tensor& cells, const Tensor& batch_columns, const Tensor& batch_entries,
                                 const Tensor& ids, const Tensor& offsets, const Tensor& positions, const Tensor& weights,
                                 at::IntArrayRef most, const Tensor& grad, const Tensor& rates, Tensor params,
                                 Tensor exp_avg, Tensor exp_avg_sq, Tensor bad, double beta1, double beta2, double eps,
                                 double norm_weight) {
  const ColumnTensors c{cells, batch_columns, batch_entries, ids,    offsets, positions,  weights,
                        most,  grad,          rates,         params, exp_avg, exp_avg_sq, bad};
  check_columns(c);
  if (params.numel() == 0 || ids.numel() == 0) return;
  for (const auto* t : {&c.grad, &c.params, &c.exp_avg, &c.exp_avg_sq})
    TORCH_CHECK_VALUE(reinterpret_cast<uintptr_t>(t->const_data_ptr()) % 16 == 0,
                      "grad, params, exp_avg, exp_avg_sq: expected memory aligned to 16 bytes");
  const c10::cuda::CUDAGuard guard(params.device());
  const Settings settings{beta1, beta2, eps, norm_weight};
  if (params.scalar_type() == at::kDouble) launch<double, double>(c, settings);
  else if (weights.scalar_type() == at::kHalf) launch<float, cuda::Half>(c, settings);
  else launch<float, float>(c, settings);
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

}  // namespace
}  // namespace splatseg

TORCH_LIBRARY_IMPL(splatseg, CUDA, m) {
  m.impl("pooled_transpose_adam_", splatseg::kernel<splatseg::PooledTransposeAdamOp>(splatseg::pooled_transpose_adam_cuda_));
}
