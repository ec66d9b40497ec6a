#include <torch/library.h>

TORCH_LIBRARY_FRAGMENT(splatseg, m) {
  m.def(
      "sparse_adam_(Tensor(a!) params, Tensor(b!) exp_avg, Tensor(c!) exp_avg_sq, Tensor(d!) grad, Tensor(e!) touched, "
      "int step, float lr, float beta1, float beta2, float eps, float norm_weight) -> ()");
}
