// splatseg::photometric on CUDA: checks, memory, launches.
#include "cuda/photometric_kernels.cuh"

#include <ATen/ATen.h>
#include <ATen/Dispatch.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <torch/library.h>

#include "photometric_checks.h"
#include "cuda/stream.h"

namespace splatseg {
namespace {

using at::Tensor;

std::tuple<Tensor, Tensor> photometric_cuda(const Tensor& image, const Tensor& target, double ssim_weight, bool with_grad) {
  check_photometric(image, target);
  TORCH_CHECK_VALUE(image.numel() <= cuda::kMaxElements, "image: expected at most ", cuda::kMaxElements,
                    " elements on CUDA, found ", image.sizes());
  const c10::cuda::CUDAGuard guard(image.device());
  const Tensor x = image.contiguous(), y = target.contiguous();
  Tensor loss = at::empty({}, x.options());
  Tensor grad = with_grad ? at::empty(x.sizes(), x.options()) : at::empty({0}, x.options());
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "photometric", [&] {
    cuda::PhotometricTask<scalar_t> t{};
    t.height = static_cast<int>(x.size(0));
    t.width = static_cast<int>(x.size(1));
    t.channels = static_cast<int>(x.size(2));
    t.target_is_uint8 = y.scalar_type() == at::kByte;
    t.ssim_weight = ssim_weight;
    t.image = x.const_data_ptr<scalar_t>();
    t.target = y.const_data_ptr();
    Tensor derivatives = at::empty({with_grad ? 3 : 0, x.numel()}, x.options());
    Tensor sums = at::empty({cuda::photometric_tiles(t), 2}, x.options().dtype(at::kDouble));
    t.loss = loss.mutable_data_ptr<scalar_t>();
    t.grad = with_grad ? grad.mutable_data_ptr<scalar_t>() : nullptr;
    t.derivatives = derivatives.mutable_data_ptr<scalar_t>();
    t.sums = sums.mutable_data_ptr<double>();
    cuda::launch_photometric(t, current_stream());
  });
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return {loss, grad};
}

}  // namespace
}  // namespace splatseg

TORCH_LIBRARY_IMPL(splatseg, CUDA, m) {
  m.impl("photometric", splatseg::kernel<splatseg::PhotometricOp>(splatseg::photometric_cuda));
}
