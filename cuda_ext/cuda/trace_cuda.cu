// splatseg::trace_tiles on CUDA: checks, memory, launches.
#include "cuda/trace_kernels.cuh"

#include <ATen/ATen.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <torch/library.h>

#include "trace_tiles_checks.h"
#include "cuda/stream.h"

namespace splatseg {
namespace {

using at::Tensor;

std::tuple<Tensor, Tensor, Tensor> trace_tiles_cuda(const Tensor& means2d_, const Tensor& conics_, const Tensor& opacities_,
                                                    const Tensor& tile_offsets_, const Tensor& tile_list_,
                                                    const Tensor& pixels_, int64_t columns, double min_weight) {
  check_trace_tiles(means2d_, conics_, opacities_, tile_offsets_, tile_list_, pixels_, columns);
  for (const Tensor* t : {&conics_, &opacities_, &tile_offsets_, &tile_list_, &pixels_})
    TORCH_CHECK_VALUE(t->device() == means2d_.device(), "trace_tiles: expected all tensors on ", means2d_.device());
  const c10::cuda::CUDAGuard guard(means2d_.device());
  // Pairs are read at once: a contiguous view may start at any float.
  const bool aligned = reinterpret_cast<uintptr_t>(means2d_.const_data_ptr()) % 8 == 0;
  const Tensor means2d = aligned ? means2d_.contiguous() : means2d_.clone(at::MemoryFormat::Contiguous), conics = conics_.contiguous(), opacities = opacities_.contiguous();
  const Tensor tile_offsets = tile_offsets_.contiguous(), list = tile_list_.contiguous(), pixels = pixels_.contiguous();
  Tensor offsets = at::zeros({pixels.size(0) + 1}, pixels.options().dtype(at::kLong));
  cuda::TraceTask t{};
  t.rows = static_cast<int>(pixels.size(0));
  t.columns = static_cast<int>(columns);
  t.tiles = static_cast<int>(tile_offsets.size(0));
  t.entries = static_cast<int>(list.size(0));
  t.n = static_cast<int>(means2d.size(0));
  t.min_weight = static_cast<float>(min_weight);
  t.pixels = pixels.const_data_ptr<int>();
  t.means2d = means2d.const_data_ptr<float>();
  t.conics = conics.const_data_ptr<float>();
  t.opacities = opacities.const_data_ptr<float>();
  t.tile_offsets = tile_offsets.const_data_ptr<int>();
  t.list = list.const_data_ptr<int>();
  if (t.rows == 0) return {offsets, at::empty({0}, pixels.options()), at::empty({0}, means2d.options())};
  t.offsets = offsets.mutable_data_ptr<int64_t>();
  const cuda::Stream stream = current_stream();
  cuda::launch_count(t, stream);
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  offsets = offsets.cumsum(0);
  const int64_t found = offsets[t.rows].item<int64_t>();
  Tensor ids = at::empty({found}, pixels.options()), weights = at::empty({found}, means2d.options());
  t.offsets = offsets.mutable_data_ptr<int64_t>();
  t.ids = ids.mutable_data_ptr<int>();
  t.weights = weights.mutable_data_ptr<float>();
  cuda::launch_fill(t, stream);
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return {offsets, ids, weights};
}

}  // namespace
}  // namespace splatseg

TORCH_LIBRARY_IMPL(splatseg, CUDA, m) { m.impl("trace_tiles", splatseg::kernel<splatseg::TraceTilesOp>(splatseg::trace_tiles_cuda)); }
