#include "cpu/adam.h"

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <torch/library.h>

#include <cmath>
#include <vector>

#include "cpu/blend.h"

namespace splatseg {
namespace {

using at::Tensor;

void check_state(const char* name, const Tensor& state, const Tensor& params) {
  TORCH_CHECK_VALUE(state.sizes() == params.sizes() && state.scalar_type() == params.scalar_type() && state.is_contiguous(),
                    name, ": expected contiguous ", params.sizes(), " ", params.scalar_type(), ", found ", state.sizes(), " ",
                    state.scalar_type());
}

void sparse_adam_(Tensor params, Tensor exp_avg, Tensor exp_avg_sq, Tensor grad, Tensor touched, int64_t step, double lr,
                  double beta1, double beta2, double eps, double norm_weight) {
  const auto type = params.scalar_type();
  TORCH_CHECK_VALUE(params.dim() == 2 && params.is_contiguous() && (type == at::kFloat || type == at::kDouble),
                    "params: expected contiguous (n, d) float32 or float64, found ", params.sizes(), " ", type);
  check_state("exp_avg", exp_avg, params);
  check_state("exp_avg_sq", exp_avg_sq, params);
  check_state("grad", grad, params);
  TORCH_CHECK_VALUE(touched.dim() == 1 && touched.size(0) == params.size(0) && touched.scalar_type() == at::kByte &&
                        touched.is_contiguous(),
                    "touched: expected contiguous (n,) uint8, found ", touched.sizes(), " ", touched.scalar_type());
  TORCH_CHECK_VALUE(step >= 1, "step: expected 1 or more, found ", step);
  SparseAdamJob job;
  job.params = params.mutable_data_ptr();
  job.exp_avg = exp_avg.mutable_data_ptr();
  job.exp_avg_sq = exp_avg_sq.mutable_data_ptr();
  job.grad = grad.mutable_data_ptr();
  job.touched = touched.mutable_data_ptr<uint8_t>();
  job.n = params.size(0);
  job.d = params.size(1);
  job.step_size = lr / (1 - std::pow(beta1, step));
  job.beta1 = beta1;
  job.beta2 = beta2;
  job.eps = eps;
  job.v_scale = 1 / std::sqrt(1 - std::pow(beta2, step));
  job.norm_scale = job.n > 0 ? 2 * norm_weight / job.n : 0;

  const int64_t shares = job.n < 16 * kShareBlock ? 1 : at::get_num_threads();
  std::vector<int64_t> bad(shares, -1);
  at::parallel_for(0, shares, 1, [&](int64_t begin, int64_t end) {
    for (int64_t share = begin; share < end; share++)
      bad[share] = type == at::kFloat ? SPLATSEG_PICK(sparse_adam_float)(job, share, shares)
                                      : SPLATSEG_PICK(sparse_adam_double)(job, share, shares);
  });
  for (const int64_t row : bad) TORCH_CHECK_VALUE(row < 0, "gradient: expected finite values, found others in row ", row);
}

}  // namespace
}  // namespace splatseg

TORCH_LIBRARY_IMPL(splatseg, CPU, m) { m.impl("sparse_adam_", splatseg::sparse_adam_); }
