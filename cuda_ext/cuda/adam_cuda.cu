// splatseg::sparse_adam_, sparse_adam_at_ and visible_adam_ on CUDA: checks and launches.
#include "cuda/adam_kernels.cuh"

#include <ATen/ATen.h>
#include <ATen/Dispatch.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include <cmath>

#include "adam_checks.h"
#include "visible_adam_checks.h"

namespace splatseg {
namespace {

using at::Tensor;

struct Settings {
  cuda::AdamScalars scalars;
  const cuda::AdamScalars* on_device;
  int64_t* bad;
  double beta1, beta2, eps, norm_weight;
};

void update(Tensor& params, Tensor& exp_avg, Tensor& exp_avg_sq, Tensor& grad, Tensor& touched, const Settings& s) {
  check_sparse_adam(params, exp_avg, exp_avg_sq, grad, touched);
  TORCH_CHECK_VALUE(grad.size(0) == 1, "grad: expected one part on CUDA, found ", grad.size(0));
  if (params.numel() == 0) return;
  for (const auto* t : {&params, &exp_avg, &exp_avg_sq, &grad})
    TORCH_CHECK_VALUE(reinterpret_cast<uintptr_t>(t->const_data_ptr()) % 16 == 0,
                      "params, exp_avg, exp_avg_sq, grad: expected memory aligned to 16 bytes");
  const c10::cuda::CUDAGuard guard(params.device());
  AT_DISPATCH_FLOATING_TYPES(params.scalar_type(), "sparse_adam_", [&] {
    cuda::SparseAdamTask<scalar_t> t{};
    t.n = params.size(0);
    t.d = params.size(1);
    t.params = params.mutable_data_ptr<scalar_t>();
    t.exp_avg = exp_avg.mutable_data_ptr<scalar_t>();
    t.exp_avg_sq = exp_avg_sq.mutable_data_ptr<scalar_t>();
    t.grad = grad.mutable_data_ptr<scalar_t>();
    t.touched = touched.mutable_data_ptr<uint8_t>();
    t.scalars = s.scalars;
    t.on_device = s.on_device;
    t.bad = s.bad;
    t.beta1 = s.beta1;
    t.beta2 = s.beta2;
    t.eps = s.eps;
    t.norm_scale = 2 * s.norm_weight / static_cast<double>(t.n);
    cuda::launch_sparse_adam(t, cuda::Stream{c10::cuda::getCurrentCUDAStream()});
  });
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

// Raises for a gradient that is not finite, as the CPU does: one synchronisation a step. Replayed steps use the other op.
void sparse_adam_cuda_(Tensor params, Tensor exp_avg, Tensor exp_avg_sq, Tensor grad, Tensor touched, int64_t step, double lr,
                       double beta1, double beta2, double eps, double norm_weight) {
  TORCH_CHECK_VALUE(step >= 1, "step: expected 1 or more, found ", step);
  const Tensor bad = at::full({}, cuda::kNoRow, params.options().dtype(at::kLong));
  const double power = static_cast<double>(step);
  const cuda::AdamScalars scalars{lr / (1 - std::pow(beta1, power)), 1 / std::sqrt(1 - std::pow(beta2, power))};
  update(params, exp_avg, exp_avg_sq, grad, touched,
         {scalars, nullptr, bad.mutable_data_ptr<int64_t>(), beta1, beta2, eps, norm_weight});
  const int64_t row = bad.item<int64_t>();
  TORCH_CHECK_VALUE(row == cuda::kNoRow, "gradient: expected finite values, found others in row ", row);
}

void sparse_adam_at_cuda_(Tensor params, Tensor exp_avg, Tensor exp_avg_sq, Tensor grad, Tensor touched, const Tensor& rates,
                          Tensor bad, double beta1, double beta2, double eps, double norm_weight) {
  TORCH_CHECK_VALUE(rates.numel() == 2 && rates.scalar_type() == at::kDouble && rates.is_contiguous() && rates.is_cuda(),
                    "rates: expected (2,) float64 on the device, found ", rates.sizes(), " ", rates.scalar_type());
  TORCH_CHECK_VALUE(bad.numel() == 1 && bad.scalar_type() == at::kLong && bad.is_cuda(),
                    "bad: expected () int64 on the device, found ", bad.sizes(), " ", bad.scalar_type());
  const auto* scalars = reinterpret_cast<const cuda::AdamScalars*>(rates.const_data_ptr<double>());
  update(params, exp_avg, exp_avg_sq, grad, touched,
         {{}, scalars, bad.mutable_data_ptr<int64_t>(), beta1, beta2, eps, norm_weight});
}

void visible_adam_cuda_(Tensor& param, const Tensor& grad, Tensor& exp_avg, Tensor& exp_avg_sq, const Tensor& lr,
                        const std::optional<Tensor>& visible, double beta1, double beta2, double eps, int64_t step) {
  check_visible_adam(param, grad, exp_avg, exp_avg_sq, lr, visible, step);
  if (param.numel() == 0) return;
  TORCH_CHECK(lr.device() == param.device(), "visible_adam_: lr: expected it on ", param.device(), ", found ", lr.device());
  TORCH_CHECK(!visible || visible->device() == param.device(), "visible_adam_: visible: expected it on ", param.device());
  const c10::cuda::CUDAGuard guard(param.device());
  AT_DISPATCH_FLOATING_TYPES(param.scalar_type(), "visible_adam_", [&] {
    cuda::VisibleAdamTask<scalar_t> t{};
    t.n = param.size(0);
    t.k = param.size(1);
    t.param = param.mutable_data_ptr<scalar_t>();
    t.grad = grad.const_data_ptr<scalar_t>();
    t.mean = exp_avg.mutable_data_ptr<scalar_t>();
    t.square = exp_avg_sq.mutable_data_ptr<scalar_t>();
    t.lr = lr.const_data_ptr<scalar_t>();
    t.visible = visible ? visible->const_data_ptr<bool>() : nullptr;
    t.beta1 = beta1;
    t.beta2 = beta2;
    t.eps = eps;
    t.rate = 1 / (1 - std::pow(beta1, static_cast<double>(step)));
    t.root = 1 / std::sqrt(1 - std::pow(beta2, static_cast<double>(step)));
    cuda::launch_visible_adam(t, cuda::Stream{c10::cuda::getCurrentCUDAStream()});
  });
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

}  // namespace
}  // namespace splatseg

TORCH_LIBRARY_IMPL(splatseg, CUDA, m) {
  m.impl("sparse_adam_", splatseg::kernel<splatseg::SparseAdamOp>(splatseg::sparse_adam_cuda_));
  m.impl("sparse_adam_at_", splatseg::kernel<splatseg::SparseAdamAtOp>(splatseg::sparse_adam_at_cuda_));
  m.impl("visible_adam_", splatseg::kernel<splatseg::VisibleAdamOp>(splatseg::visible_adam_cuda_));
}
