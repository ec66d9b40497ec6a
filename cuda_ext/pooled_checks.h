// Arguments of splatseg::pool_batch_ and their checks, shared by devices.
#pragma once

#include <ATen/core/Tensor.h>

#include "registration.h"

namespace splatseg {

using PoolBatchOp = void(const at::Tensor& step, const at::Tensor& schedule, const at::Tensor& rates,
                         const at::Tensor& view_start, const at::Tensor& shuffled, const at::Tensor& patch,
                         const at::Tensor& membership, int64_t empty_row, at::Tensor out_rows, at::Tensor out_patch,
                         at::Tensor out_membership, at::Tensor out_rates);
using PoolAdvanceOp = void(at::Tensor step, const at::Tensor& loss, at::Tensor losses);

// In the order of the schema; see splatseg/ops/reference/replay.py.
struct PoolTensors {
  at::Tensor step, schedule, rates, view_start, shuffled, patch, membership, out_rows, out_patch, out_membership, out_rates;
};

// Raises ValueError unless shapes and dtypes fit and all is contiguous. Values are not looked at.
void check_pool(const PoolTensors& p);

}  // namespace splatseg
