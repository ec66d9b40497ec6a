// splatseg::adam_: schema and the checks that devices share. See ops/adam.py.
#include "adam_checks.h"

#include <torch/library.h>

namespace splatseg {

void check_adam(const AdamTensors& t) {
  const auto& params = t.params;
  TORCH_CHECK_VALUE(params.dim() == 2 && params.is_contiguous() &&
                        (params.scalar_type() == at::kFloat || params.scalar_type() == at::kDouble),
                    "params: expected contiguous (n, d) float32 or float64, found ", params.sizes(), " ",
                    params.scalar_type());
  for (const auto* other : {&t.exp_avg, &t.exp_avg_sq, &t.grad}) {
    const bool fits = other != &t.grad
                          ? other->sizes() == params.sizes()
                          : other->dim() == 3 && other->size(0) >= 1 && other->sizes().slice(1) == params.sizes();
    TORCH_CHECK_VALUE(fits && other->scalar_type() == params.scalar_type() && other->is_contiguous() &&
                          other->device() == params.device(),
                      "exp_avg, exp_avg_sq, grad's parts: expected contiguous ", params.sizes(), " ", params.scalar_type(),
                      " on ", params.device(), ", found ", other->sizes(), " ", other->scalar_type(), " on ",
                      other->device());
  }
  TORCH_CHECK_VALUE(!t.rows || (t.rows->sizes() == t.grad.sizes().slice(0, 2) && t.rows->scalar_type() == at::kByte &&
                                t.rows->is_contiguous() && t.rows->device() == params.device()),
                    "rows: expected contiguous (parts, n) = ", t.grad.sizes().slice(0, 2), " uint8 on ", params.device());
  TORCH_CHECK_VALUE(!t.lr || (t.lr->dim() == 1 && t.lr->size(0) == params.size(1) && t.lr->is_contiguous() &&
                              t.lr->scalar_type() == params.scalar_type() && t.lr->device() == params.device()),
                    "lr: expected contiguous (d,) = (", params.size(1), ",) ", params.scalar_type(), " on ",
                    params.device());
  TORCH_CHECK_VALUE(t.rates.numel() == 2 && t.rates.scalar_type() == at::kDouble && t.rates.is_contiguous() &&
                        (t.rates.is_cpu() || t.rates.device() == params.device()),
                    "rates: expected (2,) float64 on the host or ", params.device(), ", found ", t.rates.sizes(), " ",
                    t.rates.scalar_type(), " on ", t.rates.device());
  TORCH_CHECK_VALUE(!t.bad || (t.bad->numel() == 1 && t.bad->scalar_type() == at::kLong && t.bad->device() == params.device()),
                    "bad: expected () int64 on ", params.device());
}

}  // namespace splatseg

TORCH_LIBRARY_FRAGMENT(splatseg, m) {
  // rates (2,) float64: lr / (1 - beta1^step) and 1 / sqrt(1 - beta2^step), read when the step runs; lr (d,) multiplies the
  // first. bad () int64, where given, becomes the least row, if lower, whose gradient is not finite.
  m.def(
      "adam_(Tensor(a!) params, Tensor(b!) exp_avg, Tensor(c!) exp_avg_sq, Tensor(d!) grad, Tensor(e!)? rows, Tensor? lr, "
      "Tensor rates, Tensor(f!)? bad, float beta1, float beta2, float eps, float norm_weight, bool clear) -> ()");
}
