#include <torch/library.h>

TORCH_LIBRARY_FRAGMENT(splatseg, m) {
  // (loss (), d loss / d image like image); the second is empty where with_grad is false.
  m.def("photometric(Tensor image, Tensor target, float ssim_weight, bool with_grad) -> (Tensor, Tensor)");
}
