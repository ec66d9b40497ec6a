// splatseg::sparse_adam_ and its sibling for replayed steps: schemas and the checks that devices share. See ops/adam.py.
#include "adam_checks.h"

#include <torch/library.h>

namespace splatseg {

void check_sparse_adam(const at::Tensor& params, const at::Tensor& exp_avg, const at::Tensor& exp_avg_sq,
                       const at::Tensor& grad, const at::Tensor& touched) {
  TORCH_CHECK_VALUE(params.dim() == 2 && params.is_contiguous() &&
                        (params.scalar_type() == at::kFloat || params.scalar_type() == at::kDouble),
                    "params: expected contiguous (n, d) float32 or float64, found ", params.sizes(), " ",
                    params.scalar_type());
  for (const auto* t : {&exp_avg, &exp_avg_sq, &grad}) {
    const bool fits = t != &grad ? t->sizes() == params.sizes()
                                 : grad.dim() == 3 && grad.size(0) >= 1 && grad.sizes().slice(1) == params.sizes();
    TORCH_CHECK_VALUE(fits && t->scalar_type() == params.scalar_type() && t->is_contiguous() &&
                          t->device() == params.device(),
                      "exp_avg, exp_avg_sq, grad's parts: expected contiguous ", params.sizes(), " ", params.scalar_type(),
                      " on ", params.device(), ", found ", t->sizes(), " ", t->scalar_type(), " on ", t->device());
  }
  TORCH_CHECK_VALUE(touched.sizes() == grad.sizes().slice(0, 2) && touched.scalar_type() == at::kByte &&
                        touched.is_contiguous() && touched.device() == params.device(),
                    "touched: expected contiguous (parts, n) uint8, found ", touched.sizes(), " ", touched.scalar_type());
}

}  // namespace splatseg

TORCH_LIBRARY_FRAGMENT(splatseg, m) {
  m.def(
      "sparse_adam_(Tensor(a!) params, Tensor(b!) exp_avg, Tensor(c!) exp_avg_sq, Tensor(d!) grad, Tensor(e!) touched, "
      "int step, float lr, float beta1, float beta2, float eps, float norm_weight) -> ()");
  // rates (2,) float64: lr / (1 - beta1^step) and 1 / sqrt(1 - beta2^step); bad () int64 becomes the least row, if lower,
  // whose gradient is not finite.
  m.def(
      "sparse_adam_at_(Tensor(a!) params, Tensor(b!) exp_avg, Tensor(c!) exp_avg_sq, Tensor(d!) grad, Tensor(e!) touched, "
      "Tensor rates, Tensor(f!) bad, float beta1, float beta2, float eps, float norm_weight) -> ()");
}
