// Input checks of the photometric loss that every device shares.
#pragma once
#include <ATen/core/Tensor.h>

#include <tuple>

#include "registration.h"

namespace splatseg {

using PhotometricOp = std::tuple<at::Tensor, at::Tensor>(const at::Tensor& image, const at::Tensor& target,
                                                         double ssim_weight, bool with_grad);

// Throws c10::Error naming the argument unless shapes, dtypes and devices fit; see ops/photometric.py for their meaning.
void check_photometric(const at::Tensor& image, const at::Tensor& target);

}  // namespace splatseg
