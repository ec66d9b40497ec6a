// splatseg::photometric: schema and the checks that every device shares.
#include "photometric_checks.h"

#include <torch/library.h>

namespace splatseg {

void check_photometric(const at::Tensor& image, const at::Tensor& target) {
  const auto type = image.scalar_type(), target_type = target.scalar_type();
  TORCH_CHECK_VALUE(image.dim() == 3 && image.numel() > 0 && (type == at::kFloat || type == at::kDouble),
                    "image: expected (height, width, channels) float32 or float64, found ", image.sizes(), " ", type);
  TORCH_CHECK_VALUE(target.sizes() == image.sizes() && (target_type == at::kByte || target_type == type),
                    "target: expected ", image.sizes(), " uint8 or ", type, ", found ", target.sizes(), " ", target_type);
  TORCH_CHECK_VALUE(target.device() == image.device(), "target: expected it on ", image.device(), ", found ",
                    target.device());
}

}  // namespace splatseg

TORCH_LIBRARY_FRAGMENT(splatseg, m) {
  // (loss (), d loss / d image like image); the second is empty where with_grad is false.
  m.def("photometric(Tensor image, Tensor target, float ssim_weight, bool with_grad) -> (Tensor, Tensor)");
}
