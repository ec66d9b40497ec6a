#include "blend_checks.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <atomic>

#include "cpu/blend.h"

namespace splatseg {
namespace {

using at::Tensor;

// Contiguous inputs, kept alive for as long as the job points into them.
struct Inputs {
  Tensor offsets, ids, weights, rows;
  BlendJob job;

  Inputs(const Tensor& offsets_, const Tensor& ids_, const Tensor& weights_, const std::optional<Tensor>& rows_, int64_t n,
         int64_t d)
      : offsets(offsets_.contiguous()), ids(ids_.contiguous()), weights(weights_.contiguous()) {
    if (rows_.has_value()) rows = rows_->contiguous();
    const auto type = weights.scalar_type();
    job.offsets = offsets.const_data_ptr<int64_t>();
    job.ids = ids.const_data_ptr<int32_t>();
    job.weights = weights.const_data_ptr();
    job.weight_type = type == at::kHalf ? WeightType::half : type == at::kFloat ? WeightType::single : WeightType::full;
    job.rows = rows.defined() ? rows.const_data_ptr<int64_t>() : nullptr;
    job.csr_rows = offsets.numel() - 1;
    job.entries = ids.numel();
    job.count = rows.defined() ? rows.numel() : job.csr_rows;
    job.n = n;
    job.d = d;
  }
};

[[noreturn]] void range_error(const BlendJob& job) {
  TORCH_CHECK_INDEX(false, "contributions: expected rows below ", job.csr_rows, ", rising offsets up to ", job.entries,
                    " and ids below ", job.n, ", found one outside");
}

Tensor blend(const Tensor& offsets, const Tensor& ids, const Tensor& weights, const Tensor& features,
             const std::optional<Tensor>& rows) {
  check_blend(offsets, ids, weights, features, rows);
  const Tensor f = features.contiguous();
  const Inputs in(offsets, ids, weights, rows, f.size(0), f.size(1));
  Tensor out = at::empty({in.job.count, in.job.d}, f.options());
  const void* source = f.const_data_ptr();
  void* target = out.mutable_data_ptr();
  std::atomic<bool> fine{true};
  at::parallel_for(0, in.job.count, 128, [&](int64_t begin, int64_t end) {
    if (!SPLATSEG_PICK(blend_forward)(in.job, source, target, begin, end)) fine = false;
  });
  if (!fine) range_error(in.job);
  return out;
}

int64_t share_count(int64_t rows, int64_t parts) {
  int64_t shares = 1;
  if (rows < 256) return shares;
  while (shares * parts < at::get_num_threads()) shares *= 2;
  return shares;
}

// Output rows are dealt to `parts` equal runs, which add to (parts, n, d) and (parts, n) each their own matrix.
void accumulate(const BlendJob& job, const Tensor& grad, const Tensor& sum, const std::optional<Tensor>& touched,
                int64_t parts) {
  const int64_t shares = share_count(job.count, parts);
  const void* source = grad.const_data_ptr();
  char* values = (char*)sum.mutable_data_ptr();
  uint8_t* flags = touched.has_value() ? touched->mutable_data_ptr<uint8_t>() : nullptr;
  std::atomic<bool> fine{true};
  at::parallel_for(0, parts * shares, 1, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; task++) {
      const int64_t part = task / shares;
      const BlendSum own = {values + part * job.n * job.d * sum.element_size(), flags ? flags + part * job.n : nullptr};
      const BlendShare share = {job.count * part / parts, job.count * (part + 1) / parts, task % shares, shares};
      if (!SPLATSEG_PICK(blend_backward)(job, source, own, share)) fine = false;
    }
  });
  if (!fine) range_error(job);
}

void check_grad(const Inputs& in, const Tensor& grad) {
  TORCH_CHECK_VALUE(grad.size(0) == in.job.count, "grad: expected ", in.job.count, " rows, found ", grad.size(0));
}

Tensor blend_transpose(const Tensor& offsets, const Tensor& ids, const Tensor& weights, const Tensor& grad,
                       const std::optional<Tensor>& rows, int64_t n) {
  check_blend(offsets, ids, weights, grad, rows);
  const Tensor g = grad.contiguous();
  const Inputs in(offsets, ids, weights, rows, n, g.size(1));
  check_grad(in, g);
  Tensor sum = at::zeros({n, g.size(1)}, g.options());
  accumulate(in.job, g, sum, std::nullopt, 1);
  return sum;
}

void blend_transpose_(const Tensor& offsets, const Tensor& ids, const Tensor& weights, const Tensor& grad,
                      const std::optional<Tensor>& rows, Tensor sum, Tensor touched) {
  check_blend(offsets, ids, weights, grad, rows);
  check_blend_sum(grad, sum, touched);
  const Tensor g = grad.contiguous();
  const Inputs in(offsets, ids, weights, rows, sum.size(1), sum.size(2));
  check_grad(in, g);
  accumulate(in.job, g, sum, touched, sum.size(0));
}

}  // namespace
}  // namespace splatseg

TORCH_LIBRARY_IMPL(splatseg, CPU, m) {
  m.impl("blend", splatseg::kernel<splatseg::BlendOp>(splatseg::blend));
  m.impl("blend_transpose", splatseg::kernel<splatseg::BlendTransposeOp>(splatseg::blend_transpose));
  m.impl("blend_transpose_", splatseg::kernel<splatseg::BlendTransposeIntoOp>(splatseg::blend_transpose_));
}
