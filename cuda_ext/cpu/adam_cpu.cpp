#include "adam_checks.h"

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <torch/library.h>

#include <cmath>
#include <vector>

#include "cpu/adam.h"
#include "cpu/blend.h"

namespace splatseg {
namespace {

using at::Tensor;

void sparse_adam_(Tensor params, Tensor exp_avg, Tensor exp_avg_sq, Tensor grad, Tensor touched, int64_t step, double lr,
                  double beta1, double beta2, double eps, double norm_weight) {
  check_sparse_adam(params, exp_avg, exp_avg_sq, grad, touched);
  TORCH_CHECK_VALUE(step >= 1, "step: expected 1 or more, found ", step);
  SparseAdamJob job;
  job.params = params.mutable_data_ptr();
  job.exp_avg = exp_avg.mutable_data_ptr();
  job.exp_avg_sq = exp_avg_sq.mutable_data_ptr();
  job.grad = grad.mutable_data_ptr();
  job.touched = touched.mutable_data_ptr<uint8_t>();
  job.parts = grad.size(0);
  job.n = params.size(0);
  job.d = params.size(1);
  job.step_size = lr / (1 - std::pow(beta1, step));
  job.beta1 = beta1;
  job.beta2 = beta2;
  job.eps = eps;
  job.v_scale = 1 / std::sqrt(1 - std::pow(beta2, step));
  job.norm_scale = job.n > 0 ? 2 * norm_weight / job.n : 0;

  const bool single = params.scalar_type() == at::kFloat;
  const int64_t shares = job.n < 16 * kShareBlock ? 1 : at::get_num_threads();
  std::vector<int64_t> bad(shares, -1);
  const int64_t room = 2 * job.d + 8;  // doubles; the shares' scratch on cache lines of their own
  std::vector<double> scratch(shares * room);
  at::parallel_for(0, shares, 1, [&](int64_t begin, int64_t end) {
    for (int64_t share = begin; share < end; share++) {
      void* own = scratch.data() + share * room;
      bad[share] = single ? SPLATSEG_PICK(sparse_adam_float)(job, own, share, shares)
                          : SPLATSEG_PICK(sparse_adam_double)(job, own, share, shares);
    }
  });
  for (const int64_t row : bad) TORCH_CHECK_VALUE(row < 0, "gradient: expected finite values, found others in row ", row);
}

}  // namespace
}  // namespace splatseg

TORCH_LIBRARY_IMPL(splatseg, CPU, m) { m.impl("sparse_adam_", splatseg::kernel<splatseg::SparseAdamOp>(splatseg::sparse_adam_)); }
