// What the CPU and CUDA sides of the loss share: argument checks and the scalars.
#pragma once
#include <ATen/ATen.h>

#include <optional>
#include <tuple>

#include "registration.h"

namespace splatseg {

struct LossScalars {
  double phi_min, phi_max, phi_scale, level_decay;
  int64_t min_pixels;
  double weight;
};

using LossOp = std::tuple<at::Tensor, at::Tensor>(const at::Tensor& features, const at::Tensor& patch,
                                                  const std::optional<at::Tensor>& votes,
                                                  const std::optional<at::Tensor>& membership, double phi_min,
                                                  double phi_max, double phi_scale, double level_decay, int64_t min_pixels,
                                                  double weight, bool deterministic, bool with_grad);
using VotesOp = at::Tensor(const at::Tensor& membership, const at::Tensor& ids);
using LevelsOp = at::Tensor(const at::Tensor& votes);

// Each throws c10::Error naming the argument unless shapes, dtypes and devices fit; see ops/loss.py for their meaning.
void check_loss(const at::Tensor& features, const at::Tensor& patch, const std::optional<at::Tensor>& votes,
                const std::optional<at::Tensor>& membership, const LossScalars& scalars);
void check_votes(const at::Tensor& membership, const at::Tensor& ids);
void check_levels(const at::Tensor& votes);

}  // namespace splatseg
