// Arguments of splatseg::pooled_loss_ and pool_loss_tables and their checks, shared by devices.
#pragma once

#include <ATen/core/Tensor.h>

#include "registration.h"

namespace splatseg {

using PoolLossTablesOp = at::Tensor(const at::Tensor& patch, const at::Tensor& batch_start, const at::Tensor& view,
                                    const at::Tensor& membership, int64_t min_pixels, double level_decay,
                                    int64_t max_bytes);
using PooledLossOp = void(at::Tensor cells, const at::Tensor& schedule, const at::Tensor& batch_start,
                          const at::Tensor& view, const at::Tensor& offsets, const at::Tensor& ids,
                          const at::Tensor& weights, const at::Tensor& patch, const at::Tensor& membership,
                          const at::Tensor& tables, const at::Tensor& features, at::Tensor grad, at::Tensor losses,
                          double phi_min, double phi_max, double phi_scale, double level_decay, int64_t min_pixels,
                          double weight, bool deterministic);

// Which samples each batch has, and whose masks count; see splatseg/ops/reference/replay.py.
struct BatchTensors {
  at::Tensor patch, batch_start, view, membership;
};

struct PooledTensors {
  BatchTensors batches;
  at::Tensor cells, schedule, offsets, ids, weights, tables, features, grad, losses;
};

// Both raise ValueError unless shapes, dtypes and devices fit and all is contiguous. Values are not looked at.
void check_batches(const BatchTensors& b, int64_t min_pixels);
void check_pooled_loss(const PooledTensors& p);

}  // namespace splatseg
