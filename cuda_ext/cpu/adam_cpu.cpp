#include "cpu/adam.h"

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <algorithm>
#include <vector>

#include "adam_checks.h"

namespace splatseg {
namespace {

using at::Tensor;

// Fewer rows than this are one thread's.
constexpr int64_t kSharedRows = 1024;
constexpr int64_t kLine = 64 / sizeof(double);

AdamJob job_of(const AdamTensors& t) {
  AdamJob job{};
  job.params = t.params.mutable_data_ptr();
  job.exp_avg = t.exp_avg.mutable_data_ptr();
  job.exp_avg_sq = t.exp_avg_sq.mutable_data_ptr();
  job.grad = t.grad.mutable_data_ptr();
  job.rows = t.rows ? t.rows->mutable_data_ptr<uint8_t>() : nullptr;
  job.lr = t.lr ? t.lr->const_data_ptr() : nullptr;
  job.parts = t.grad.size(0);
  job.n = t.params.size(0);
  job.d = t.params.size(1);
  job.step_size = t.rates.const_data_ptr<double>()[0];
  job.v_scale = t.rates.const_data_ptr<double>()[1];
  job.checks = t.bad.has_value();
  return job;
}

void adam_cpu_(Tensor params, Tensor exp_avg, Tensor exp_avg_sq, Tensor grad, std::optional<Tensor> rows,
               const std::optional<Tensor>& lr, const Tensor& rates, std::optional<Tensor> bad, double beta1, double beta2,
               double eps, double norm_weight, bool clear) {
  const AdamTensors tensors{params, exp_avg, exp_avg_sq, grad, rows, lr, rates, bad};
  check_adam(tensors);
  AdamJob job = job_of(tensors);
  job.beta1 = beta1;
  job.beta2 = beta2;
  job.eps = eps;
  job.norm_scale = job.n > 0 ? 2 * norm_weight / job.n : 0;
  job.clears = clear;

  const bool single = params.scalar_type() == at::kFloat;
  const int64_t shares = job.n < kSharedRows ? 1 : at::get_num_threads();
  std::vector<int64_t> found(shares, -1);
  // Doubles; each share's scratch begins a cache line, as tensors do: unaligned rates cost a tenth of the step.
  const int64_t room = (3 * job.d + 2 * kLine - 1) / kLine * kLine;
  const Tensor scratch = at::zeros({shares * room}, at::kDouble);
  at::parallel_for(0, shares, 1, [&](int64_t begin, int64_t end) {
    for (int64_t share = begin; share < end; share++) {
      void* own = scratch.mutable_data_ptr<double>() + share * room;
      found[share] = single ? SPLATSEG_PICK(adam_float)(job, own, share, shares)
                            : SPLATSEG_PICK(adam_double)(job, own, share, shares);
    }
  });
  if (!bad) return;
  int64_t& least = *bad->mutable_data_ptr<int64_t>();
  for (const int64_t row : found) least = row < 0 ? least : std::min(least, row);
}

}  // namespace
}  // namespace splatseg

TORCH_LIBRARY_IMPL(splatseg, CPU, m) { m.impl("adam_", splatseg::kernel<splatseg::AdamOp>(splatseg::adam_cpu_)); }
