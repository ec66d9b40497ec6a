// splatseg::pool_batch_ and pool_advance_ on CUDA: checks and launches.
#include "cuda/pool_kernels.cuh"

#include <ATen/ATen.h>
#include <ATen/Dispatch.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include "pooled_checks.h"

namespace splatseg {
namespace {

using at::Tensor;

void pool_batch_cuda_(const Tensor& step, const Tensor& schedule, const Tensor& rates, const Tensor& view_start,
                      const Tensor& shuffled, const Tensor& patch, const Tensor& membership, int64_t empty_row,
                      Tensor out_rows, Tensor out_patch, Tensor out_membership, Tensor out_rates) {
  check_pool({step, schedule, rates, view_start, shuffled, patch, membership, out_rows, out_patch, out_membership, out_rates});
  const c10::cuda::CUDAGuard guard(step.device());
  cuda::PoolTask t{};
  t.batch = out_rows.size(0);
  t.steps = schedule.size(0);
  t.views = membership.size(0);
  t.rows = shuffled.size(0);
  t.words = out_membership.numel();
  t.empty_row = empty_row;
  t.step = step.const_data_ptr<int64_t>();
  t.schedule = schedule.const_data_ptr<int>();
  t.rates = rates.const_data_ptr<double>();
  t.view_start = view_start.const_data_ptr<int64_t>();
  t.shuffled = shuffled.const_data_ptr<int64_t>();
  t.patch = patch.const_data_ptr<int>();
  t.membership = membership.const_data_ptr<int64_t>();
  t.out_rows = out_rows.mutable_data_ptr<int64_t>();
  t.out_patch = out_patch.mutable_data_ptr<int>();
  t.out_membership = out_membership.mutable_data_ptr<int64_t>();
  t.out_rates = out_rates.mutable_data_ptr<double>();
  cuda::launch_draw(t, cuda::Stream{c10::cuda::getCurrentCUDAStream()});
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

void pool_advance_cuda_(Tensor step, const Tensor& loss, Tensor losses) {
  TORCH_CHECK_VALUE(step.numel() == 1 && step.scalar_type() == at::kLong, "step: expected () int64, found ", step.sizes());
  TORCH_CHECK_VALUE(loss.numel() == 1 && losses.dim() == 1 && losses.is_contiguous() &&
                        losses.scalar_type() == loss.scalar_type(),
                    "loss, losses: expected () and (steps,) of one type, found ", loss.sizes(), " and ", losses.sizes());
  const c10::cuda::CUDAGuard guard(step.device());
  AT_DISPATCH_FLOATING_TYPES(loss.scalar_type(), "pool_advance_", [&] {
    const cuda::AdvanceTask<scalar_t> t{losses.size(0), step.mutable_data_ptr<int64_t>(), loss.const_data_ptr<scalar_t>(),
                                        losses.mutable_data_ptr<scalar_t>()};
    cuda::launch_advance(t, cuda::Stream{c10::cuda::getCurrentCUDAStream()});
  });
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

}  // namespace
}  // namespace splatseg

TORCH_LIBRARY_IMPL(splatseg, CUDA, m) {
  m.impl("pool_batch_", splatseg::kernel<splatseg::PoolBatchOp>(splatseg::pool_batch_cuda_));
  m.impl("pool_advance_", splatseg::kernel<splatseg::PoolAdvanceOp>(splatseg::pool_advance_cuda_));
}
