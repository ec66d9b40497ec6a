// Arguments of splatseg::pool_batch_ and their checks, shared by devices.
#pragma once

#include <ATen/core/Tensor.h>

namespace splatseg {

// In the order of the schema; see splatseg/ops/reference/pooled.py.
struct PoolTensors {
  at::Tensor step, schedule, rates, view_start, shuffled, patch, membership, out_rows, out_patch, out_membership, out_rates;
};

// Raises ValueError unless shapes and dtypes fit and all is contiguous. Values are not looked at.
void check_pool(const PoolTensors& p);

}  // namespace splatseg
