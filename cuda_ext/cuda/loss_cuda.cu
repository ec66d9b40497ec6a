// splatseg::hierarchical_contrastive_loss, splatseg::votes and splatseg::levels on CUDA: checks, memory, launches.
#include "cuda/loss_kernels.cuh"

#include <ATen/ATen.h>
#include <ATen/Dispatch.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <torch/library.h>

#include "loss_checks.h"
#include "cuda/stream.h"

namespace splatseg {
namespace {

static_assert(cuda::LossShared<double>::bytes(cuda::kLossRows) <= cuda::kSharedLimit);

template <class T>
void solve(const at::Tensor& features, const at::Tensor& patch, const at::Tensor& votes, const at::Tensor& membership,
           const LossScalars& scalars, bool deterministic, const at::Tensor& loss, const at::Tensor& grad) {
  cuda::LossTask<T> t{};
  t.n = static_cast<int>(features.size(0));
  t.d = static_cast<int>(features.size(1));
  t.patches = static_cast<int>(votes.defined() ? votes.size(0) : membership.size(0));
  t.words = votes.defined() ? 0 : static_cast<int>(membership.size(1));
  t.min_pixels = static_cast<int>(std::min<int64_t>(scalars.min_pixels, INT32_MAX));
  t.with_grad = grad.numel() > 0;
  t.phi_min = scalars.phi_min;
  t.phi_max = scalars.phi_max;
  t.phi_scale = scalars.phi_scale;
  t.level_decay = scalars.level_decay;
  t.weight = scalars.weight;
  t.features = features.const_data_ptr<T>();
  t.patch = patch.const_data_ptr<int>();
  t.votes = votes.defined() ? votes.const_data_ptr<int>() : nullptr;
  t.membership = votes.defined() ? nullptr : membership.const_data_ptr<int64_t>();
  t.loss = loss.mutable_data_ptr<T>();
  t.grad = grad.mutable_data_ptr<T>();
  int64_t cleared = 0;
  cuda::lay_out_tables(t);
  const int64_t bytes = cuda::lay_out(t, nullptr, cleared);
  if (t.n == 0 || t.k_max <= 0) {  // no patch can have enough samples
    loss.zero_();
    grad.zero_();
    return;
  }
  TORCH_CHECK(t.k_max < cuda::kMaxPatches, "min_pixels: ", t.k_max, " patches could be kept, expected fewer than ",
              cuda::kMaxPatches);
  TORCH_CHECK(cuda::spread_shared<T>(t.d) <= cuda::kSharedLimit, "features: expected fewer columns on CUDA, found d = ", t.d);
  const at::Tensor memory = at::empty({t.at.bytes + bytes}, features.options().dtype(at::kByte));
  t.tables = reinterpret_cast<char*>(memory.mutable_data_ptr<uint8_t>());
  cuda::lay_out(t, t.tables + t.at.bytes, cleared);
  const cuda::Stream stream = current_stream();
  if (deterministic) {
    cuda::launch_loss<T, cuda::ExactSum<T>>(t, cleared, stream);
  } else {
    cuda::launch_loss<T, cuda::FastSum<T>>(t, cleared, stream);
  }
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

std::tuple<at::Tensor, at::Tensor> loss_cuda(const at::Tensor& features, const at::Tensor& patch,
                                             const std::optional<at::Tensor>& votes,
                                             const std::optional<at::Tensor>& membership, double phi_min, double phi_max,
                                             double phi_scale, double level_decay, int64_t min_pixels, double weight,
                                             bool deterministic, bool with_grad) {
  const LossScalars scalars{phi_min, phi_max, phi_scale, level_decay, min_pixels, weight};
  check_loss(features, patch, votes, membership, scalars);
  const c10::cuda::CUDAGuard guard(features.device());
  const at::Tensor values = features.contiguous(), ids = patch.to(at::kInt).contiguous();
  const at::Tensor counts = votes ? votes->to(at::kInt).contiguous() : at::Tensor();
  const at::Tensor bits = membership ? membership->contiguous() : at::Tensor();
  at::Tensor loss = at::empty({}, values.options());
  at::Tensor grad = with_grad ? at::empty_like(values) : at::empty({0}, values.options());
  AT_DISPATCH_FLOATING_TYPES(values.scalar_type(), "hierarchical_contrastive_loss", [&] {
    solve<scalar_t>(values, ids, counts, bits, scalars, deterministic || at::globalContext().deterministicAlgorithms(), loss,
                    grad);
  });
  return {loss, grad};
}

}  // namespace
}  // namespace splatseg

TORCH_LIBRARY_IMPL(splatseg, CUDA, m) { m.impl("hierarchical_contrastive_loss", splatseg::kernel<splatseg::LossOp>(splatseg::loss_cuda)); }
