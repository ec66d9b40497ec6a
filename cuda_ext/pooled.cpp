// splatseg::pooled_loss_ and pool_loss_tables, a replayed step of the feature fit up to its gradient: schemas and checks.
// See ops/replay.py.
#include "pooled_checks.h"

#include <torch/library.h>

namespace splatseg {
namespace {

bool is(const at::Tensor& t, at::ScalarType type, int64_t dims, const at::Tensor& like) {
  return t.scalar_type() == type && t.dim() == dims && t.is_contiguous() && t.device() == like.device();
}

void check_steps(const PooledTensors& p) {
  const at::Tensor& like = p.features;
  TORCH_CHECK_VALUE(is(p.cells, at::kLong, 1, like) && p.cells.size(0) == 3 && is(p.schedule, at::kInt, 1, like),
                    "cells, schedule: expected (3,) int64 and (steps,) int32 on ", like.device(), ", found ",
                    p.cells.sizes(), " and ", p.schedule.sizes(), " on ", p.schedule.device());
  TORCH_CHECK_VALUE(is(p.losses, like.scalar_type(), 1, like) && p.losses.sizes() == p.schedule.sizes(),
                    "losses: expected ", p.schedule.sizes(), " ", like.scalar_type(), ", found ", p.losses.sizes(), " ",
                    p.losses.scalar_type());
  TORCH_CHECK_VALUE(is(p.grad, like.scalar_type(), 2, like) && p.grad.size(1) == like.size(1),
                    "grad: expected (batch, ", like.size(1), ") ", like.scalar_type(), ", found ", p.grad.sizes(), " ",
                    p.grad.scalar_type());
  TORCH_CHECK_VALUE(is(p.tables, at::kByte, 2, like), "tables: expected (batches or 1, bytes) uint8 on ", like.device(),
                    ", found ", p.tables.sizes(), " ", p.tables.scalar_type());
}

}  // namespace

void check_batches(const BatchTensors& b, int64_t min_pixels) {
  const at::Tensor& like = b.patch;
  TORCH_CHECK_VALUE(is(like, at::kInt, 1, like), "patch: expected (rows,) int32, found ", like.sizes(), " ",
                    like.scalar_type());
  TORCH_CHECK_VALUE(is(b.batch_start, at::kLong, 1, like) && is(b.view, at::kInt, 1, like) &&
                        b.batch_start.size(0) == b.view.size(0) + 1,
                    "batch_start, view: expected (batches + 1,) int64 and (batches,) int32 on ", like.device(),
                    ", found ", b.batch_start.sizes(), " and ", b.view.sizes());
  TORCH_CHECK_VALUE(is(b.membership, at::kLong, 3, like), "membership: expected (views, p, words) int64 on ",
                    like.device(), ", found ", b.membership.sizes(), " ", b.membership.scalar_type());
  TORCH_CHECK_VALUE(min_pixels >= 1, "min_pixels: expected at least 1, found ", min_pixels);
}

void check_pooled_loss(const PooledTensors& p) {
  const at::Tensor& features = p.features;
  const bool wide = features.scalar_type() == at::kDouble;
  TORCH_CHECK_VALUE(features.dim() == 2 && features.is_contiguous() && (wide || features.scalar_type() == at::kFloat),
                    "features: expected contiguous (n, d) float32 or float64, found ", features.sizes(), " ",
                    features.scalar_type());
  TORCH_CHECK_VALUE(p.batches.patch.device() == features.device(), "patch: expected it on ", features.device());
  check_steps(p);
  TORCH_CHECK_VALUE(is(p.offsets, at::kLong, 1, features) && p.offsets.size(0) > p.batches.patch.size(0),
                    "offsets: expected int64 of more rows than patch, ", p.batches.patch.sizes(), ", found ",
                    p.offsets.sizes());
  const bool fits = is(p.weights, at::kDouble, 1, features) == wide &&
                    (wide || is(p.weights, at::kFloat, 1, features) || is(p.weights, at::kHalf, 1, features));
  TORCH_CHECK_VALUE(is(p.ids, at::kInt, 1, features) && fits && p.ids.sizes() == p.weights.sizes(),
                    "ids, weights: expected (entries,) int32 and float16 or float32, float64 beside float64, found ",
                    p.ids.sizes(), " and ", p.weights.sizes(), " ", p.weights.scalar_type());
}

}  // namespace splatseg

TORCH_LIBRARY_FRAGMENT(splatseg, m) {
  m.def(
      "pool_loss_tables(Tensor patch, Tensor batch_start, Tensor view, Tensor membership, int min_pixels, "
      "float level_decay, int max_bytes) -> Tensor");
  m.def(
      "pooled_loss_(Tensor(a!) cells, Tensor schedule, Tensor batch_start, Tensor view, Tensor offsets, Tensor ids, "
      "Tensor weights, Tensor patch, Tensor membership, Tensor tables, Tensor features, Tensor(b!) grad, "
      "Tensor(c!) losses, float phi_min, float phi_max, float phi_scale, float level_decay, int min_pixels, "
      "float weight, bool deterministic) -> ()");
}
