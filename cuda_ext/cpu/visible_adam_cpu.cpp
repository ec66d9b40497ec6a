#include "cpu/visible_adam.h"

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <cmath>

#include "visible_adam_checks.h"

namespace splatseg {
namespace {

template <class T>
using RowKernel = void(T*, const T*, T*, T*, const T*, const bool*, int64_t, int64_t, int64_t, AdamStep);

template <class T>
RowKernel<T>* row_kernel() {
#if SPLATSEG_X86
  return pick<RowKernel<T>>(baseline::visible_adam_rows, avx2::visible_adam_rows, avx512::visible_adam_rows);
#else
  return baseline::visible_adam_rows;
#endif
}

void visible_adam_cpu(at::Tensor& param, const at::Tensor& grad, at::Tensor& exp_avg, at::Tensor& exp_avg_sq,
                      const at::Tensor& lr, const std::optional<at::Tensor>& visible, double beta1, double beta2, double eps,
                      int64_t step) {
  check_visible_adam(param, grad, exp_avg, exp_avg_sq, lr, visible, step);
  const AdamStep scalars{beta1, beta2, eps, 1 / (1 - std::pow(beta1, step)), 1 / std::sqrt(1 - std::pow(beta2, step))};
  const bool* shown = visible ? visible->const_data_ptr<bool>() : nullptr;
  AT_DISPATCH_FLOATING_TYPES(param.scalar_type(), "visible_adam_", [&] {
    auto* kernel = row_kernel<scalar_t>();
    const int64_t k = param.size(1);
    at::parallel_for(0, param.size(0), 4096, [&](int64_t begin, int64_t end) {
      kernel(param.data_ptr<scalar_t>(), grad.const_data_ptr<scalar_t>(), exp_avg.data_ptr<scalar_t>(),
             exp_avg_sq.data_ptr<scalar_t>(), lr.const_data_ptr<scalar_t>(), shown, begin, end, k, scalars);
    });
  });
}

}  // namespace
}  // namespace splatseg

TORCH_LIBRARY_IMPL(splatseg, CPU, m) { m.impl("visible_adam_", splatseg::kernel<splatseg::VisibleAdamOp>(splatseg::visible_adam_cpu)); }
