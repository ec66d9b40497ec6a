// splatseg::blend and its transposes on CUDA: checks, memory, launches.
#include "cuda/blend_kernels.cuh"

#include <ATen/ATen.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <torch/library.h>

#include "blend_checks.h"
#include "cuda/stream.h"

namespace splatseg {
namespace {

using at::Tensor;
using Rows = std::optional<Tensor>;

// Kernels load 16 bytes at a time; a contiguous view may start anywhere in its storage.
bool misaligned(const Tensor& t) { return reinterpret_cast<uintptr_t>(t.const_data_ptr()) % 16 != 0; }

// Contiguous inputs, kept alive for as long as a task points into them.
struct Inputs {
  Tensor offsets, ids, weights, matrix, rows;

  Inputs(const Tensor& offsets_, const Tensor& ids_, const Tensor& weights_, const Tensor& matrix_, const Rows& rows_)
      : offsets(offsets_.contiguous()),
        ids(ids_.contiguous()),
        weights(weights_.contiguous()),
        matrix(matrix_.contiguous()) {
    if (rows_.has_value()) rows = rows_->contiguous();
    if (misaligned(matrix)) matrix = matrix.clone();
    for (const Tensor* t : {&offsets, &ids, &weights, &rows})
      TORCH_CHECK_VALUE(!t->defined() || t->device() == matrix.device(), "contributions, rows: expected tensors on ",
                        matrix.device(), ", found ", t->device());
  }

  int64_t count() const { return rows.defined() ? rows.numel() : offsets.numel() - 1; }

  template <class T, class W>
  cuda::BlendTask<T, W> task(int64_t n, T* out, uint8_t* touched) const {
    cuda::BlendTask<T, W> t{};
    t.rows = count();
    t.csr_rows = offsets.numel() - 1;
    t.entries = ids.numel();
    t.n = n;
    t.d = matrix.size(1);
    t.offsets = offsets.const_data_ptr<int64_t>();
    t.ids = ids.const_data_ptr<int>();
    t.weights = static_cast<const W*>(weights.const_data_ptr());
    t.chosen = rows.defined() ? rows.const_data_ptr<int64_t>() : nullptr;
    t.matrix = matrix.const_data_ptr<T>();
    t.out = out;
    t.touched = touched;
    return t;
  }
};

// Calls use(T(), W()) with the types of matrix and weights, which check_blend has paired.
template <class Use>
void with_types(const Inputs& in, const Use& use) {
  if (in.matrix.scalar_type() == at::kDouble) return use(double(), double());
  if (in.weights.scalar_type() == at::kHalf) return use(float(), cuda::Half());
  return use(float(), float());
}

Tensor blend_cuda(const Tensor& offsets, const Tensor& ids, const Tensor& weights, const Tensor& features, const Rows& rows) {
  check_blend(offsets, ids, weights, features, rows);
  const c10::cuda::CUDAGuard guard(features.device());
  const Inputs in(offsets, ids, weights, features, rows);
  Tensor out = at::empty({in.count(), features.size(1)}, features.options());
  if (out.numel() == 0) return out;
  with_types(in, [&](auto t, auto w) {
    using T = decltype(t);
    cuda::launch_blend(in.task<T, decltype(w)>(features.size(0), out.mutable_data_ptr<T>(), nullptr), current_stream());
  });
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return out;
}

// The chosen entries sorted by Gaussian: a fixed order of addition, at the price of the sort.
void accumulate_in_order(const Inputs& in, Tensor& sum, uint8_t* touched) {
  const int64_t csr_rows = in.offsets.numel() - 1;
  Tensor counts = in.offsets.diff(), starts = in.offsets.slice(0, 0, csr_rows);
  if (in.rows.defined()) {
    const Tensor inside = in.rows.ge(0).logical_and(in.rows.lt(csr_rows));
    const Tensor source = at::where(inside, in.rows, at::zeros_like(in.rows));
    counts = at::where(inside, counts.index_select(0, source), at::zeros_like(source));
    starts = starts.index_select(0, source);
  }
  const Tensor before = counts.cumsum(0).sub(counts);
  const Tensor row = at::arange(counts.numel(), counts.options()).repeat_interleave(counts);
  const Tensor within = at::arange(row.numel(), counts.options()).sub(before.index_select(0, row));
  const Tensor entry = starts.index_select(0, row).add(within);
  const auto [ids, place] = in.ids.index_select(0, entry).sort(/*stable=*/true, /*dim=*/0, /*descending=*/false);
  const Tensor source = entry.index_select(0, place), sorted_row = row.index_select(0, place);
  if (ids.numel() == 0) return;
  with_types(in, [&](auto t, auto w) {
    using T = decltype(t);
    using W = decltype(w);
    cuda::SortedTask<T, W> task{};
    task.entries = ids.numel();
    task.n = sum.size(0);
    task.d = sum.size(1);
    task.ids = ids.template const_data_ptr<int>();
    task.source = source.const_data_ptr<int64_t>();
    task.row = sorted_row.const_data_ptr<int64_t>();
    task.weights = static_cast<const W*>(in.weights.const_data_ptr());
    task.grad = in.matrix.const_data_ptr<T>();
    task.out = sum.mutable_data_ptr<T>();
    task.touched = touched;
    cuda::launch_sum_runs(task, current_stream());
  });
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

// Atomic additions, or a fixed order under torch.use_deterministic_algorithms(True).
void accumulate(const Inputs& in, Tensor& sum, uint8_t* touched) {
  TORCH_CHECK_VALUE(in.matrix.size(0) == in.count(), "grad: expected ", in.count(), " rows, found ", in.matrix.size(0));
  if (in.count() == 0 || in.ids.numel() == 0 || sum.numel() == 0) return;
  if (at::globalContext().deterministicAlgorithms()) return accumulate_in_order(in, sum, touched);
  with_types(in, [&](auto t, auto w) {
    using T = decltype(t);
    cuda::launch_scatter(in.task<T, decltype(w)>(sum.size(0), sum.mutable_data_ptr<T>(), touched), current_stream());
  });
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

Tensor blend_transpose_cuda(const Tensor& offsets, const Tensor& ids, const Tensor& weights, const Tensor& grad,
                            const Rows& rows, int64_t n) {
  check_blend(offsets, ids, weights, grad, rows);
  const c10::cuda::CUDAGuard guard(grad.device());
  Tensor sum = at::zeros({n, grad.size(1)}, grad.options());
  accumulate(Inputs(offsets, ids, weights, grad, rows), sum, nullptr);
  return sum;
}

void blend_transpose_cuda_(const Tensor& offsets, const Tensor& ids, const Tensor& weights, const Tensor& grad,
                           const Rows& rows, Tensor sum, Tensor touched) {
  check_blend(offsets, ids, weights, grad, rows);
  check_blend_sum(grad, sum, touched);
  TORCH_CHECK_VALUE(sum.size(0) == 1, "sum: expected one part on CUDA, found ", sum.size(0));
  TORCH_CHECK_VALUE(!misaligned(sum), "sum: expected memory aligned to 16 bytes");
  const c10::cuda::CUDAGuard guard(grad.device());
  Tensor part = sum.squeeze(0);
  accumulate(Inputs(offsets, ids, weights, grad, rows), part, touched.mutable_data_ptr<uint8_t>());
}

}  // namespace
}  // namespace splatseg

TORCH_LIBRARY_IMPL(splatseg, CUDA, m) {
  m.impl("blend", splatseg::kernel<splatseg::BlendOp>(splatseg::blend_cuda));
  m.impl("blend_transpose", splatseg::kernel<splatseg::BlendTransposeOp>(splatseg::blend_transpose_cuda));
  m.impl("blend_transpose_", splatseg::kernel<splatseg::BlendTransposeIntoOp>(splatseg::blend_transpose_cuda_));
}
