// Arguments of splatseg::pooled_transpose_adam_ and their checks, shared by devices.
#pragma once

#include <ATen/core/Tensor.h>

#include "registration.h"

namespace splatseg {

using PooledTransposeAdamOp = void(const at::Tensor& cells, const at::Tensor& batch_columns,
                                   const at::Tensor& batch_entries, const at::Tensor& ids, const at::Tensor& offsets,
                                   const at::Tensor& positions, const at::Tensor& weights, at::IntArrayRef most,
                                   const at::Tensor& grad, const at::Tensor& rates, at::Tensor params, at::Tensor exp_avg,
                                   at::Tensor exp_avg_sq, at::Tensor bad, double beta1, double beta2, double eps,
                                   double norm_weight);

// In the order of the schema; see splatseg/ops/reference/columns.py.
struct ColumnTensors {
  at::Tensor cells, batch_columns, batch_entries, ids, offsets, positions, weights;
  at::IntArrayRef most;
  at::Tensor grad, rates, params, exp_avg, exp_avg_sq, bad;
};

// Raises ValueError unless shapes, dtypes and devices fit and all is contiguous. Values are not looked at.
void check_columns(const ColumnTensors& c);

}  // namespace splatseg
