// splatseg::adam_ on CUDA: checks and the launch.
#include "cuda/adam_kernels.cuh"

#include <ATen/ATen.h>
#include <ATen/Dispatch.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <torch/library.h>

#include "adam_checks.h"
#include "cuda/stream.h"

namespace splatseg {
namespace {

using at::Tensor;

template <class T>
cuda::AdamTask<T> task_of(const AdamTensors& tensors) {
  cuda::AdamTask<T> t{};
  t.n = tensors.params.size(0);
  t.d = tensors.params.size(1);
  t.params = tensors.params.mutable_data_ptr<T>();
  t.exp_avg = tensors.exp_avg.mutable_data_ptr<T>();
  t.exp_avg_sq = tensors.exp_avg_sq.mutable_data_ptr<T>();
  t.grad = tensors.grad.mutable_data_ptr<T>();
  t.rows = tensors.rows ? tensors.rows->mutable_data_ptr<uint8_t>() : nullptr;
  t.lr = tensors.lr ? tensors.lr->const_data_ptr<T>() : nullptr;
  t.bad = tensors.bad ? tensors.bad->mutable_data_ptr<int64_t>() : nullptr;
  const auto* scalars = reinterpret_cast<const cuda::AdamScalars*>(tensors.rates.const_data_ptr<double>());
  if (tensors.rates.is_cpu()) t.scalars = *scalars;
  else t.on_device = scalars;
  return t;
}

// Never waits for the device.
void adam_cuda_(Tensor params, Tensor exp_avg, Tensor exp_avg_sq, Tensor grad, std::optional<Tensor> rows,
                const std::optional<Tensor>& lr, const Tensor& rates, std::optional<Tensor> bad, double beta1, double beta2,
                double eps, double norm_weight, bool clear) {
  const AdamTensors tensors{params, exp_avg, exp_avg_sq, grad, rows, lr, rates, bad};
  check_adam(tensors);
  TORCH_CHECK_VALUE(grad.size(0) == 1, "grad: expected one part on CUDA, found ", grad.size(0));
  if (params.numel() == 0) return;
  for (const auto* t : {&params, &exp_avg, &exp_avg_sq, &grad})
    TORCH_CHECK_VALUE(reinterpret_cast<uintptr_t>(t->const_data_ptr()) % 16 == 0,
                      "params, exp_avg, exp_avg_sq, grad: expected memory aligned to 16 bytes");
  const c10::cuda::CUDAGuard guard(params.device());
  AT_DISPATCH_FLOATING_TYPES(params.scalar_type(), "adam_", [&] {
    auto t = task_of<scalar_t>(tensors);
    t.beta1 = beta1;
    t.beta2 = beta2;
    t.eps = eps;
    t.norm_scale = 2 * norm_weight / static_cast<double>(t.n);
    t.clears = clear;
    cuda::launch_adam(t, current_stream());
  });
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

}  // namespace
}  // namespace splatseg

TORCH_LIBRARY_IMPL(splatseg, CUDA, m) { m.impl("adam_", splatseg::kernel<splatseg::AdamOp>(splatseg::adam_cuda_)); }
