// splatseg::visible_adam_: schema and the checks that every device shares.
#include <torch/library.h>

#include "visible_adam_checks.h"

namespace splatseg {

void check_visible_adam(const at::Tensor& param, const at::Tensor& grad, const at::Tensor& exp_avg,
                        const at::Tensor& exp_avg_sq, const at::Tensor& lr, const std::optional<at::Tensor>& visible,
                        int64_t step) {
  TORCH_CHECK(param.dim() == 2, "visible_adam_: param: expected (n, k), found ", param.sizes());
  for (const auto* t : {&grad, &exp_avg, &exp_avg_sq}) {
    TORCH_CHECK(t->sizes() == param.sizes(), "visible_adam_: expected every tensor ", param.sizes(), ", found ", t->sizes());
    TORCH_CHECK(t->scalar_type() == param.scalar_type() && t->is_contiguous(),
                "visible_adam_: expected contiguous tensors of one dtype");
  }
  TORCH_CHECK(param.is_contiguous(), "visible_adam_: param: expected a contiguous tensor");
  TORCH_CHECK(lr.dim() == 1 && lr.size(0) == param.size(1) && lr.is_contiguous() && lr.scalar_type() == param.scalar_type(),
              "visible_adam_: lr: expected (k,) = (", param.size(1), ",) of the same dtype, found ", lr.sizes());
  TORCH_CHECK(!visible || (visible->dim() == 1 && visible->size(0) == param.size(0) && visible->is_contiguous() &&
                           visible->scalar_type() == at::kBool),
              "visible_adam_: visible: expected (n,) bool");
  TORCH_CHECK(step >= 1, "visible_adam_: step: expected at least 1, found ", step);
}

}  // namespace splatseg

TORCH_LIBRARY_FRAGMENT(splatseg, m) {
  m.def(
      "visible_adam_(Tensor(a!) param, Tensor grad, Tensor(b!) exp_avg, Tensor(c!) exp_avg_sq, Tensor lr, "
      "Tensor? visible, float beta1, float beta2, float eps, int step) -> ()");
}
