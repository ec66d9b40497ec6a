// Inputs of splatseg::connected_pieces and the checks that keep kernels inside their buffers. See splatseg/ops/pieces.py.
#pragma once

#include <ATen/core/Tensor.h>

#include "registration.h"

namespace splatseg {

using ConnectedPiecesOp = at::Tensor(const at::Tensor& labels, const at::Tensor& neighbors, const at::Tensor& distances,
                                     double longest);

// Raises ValueError, naming the argument.
void check_pieces(const at::Tensor& labels, const at::Tensor& neighbors, const at::Tensor& distances);

}  // namespace splatseg
