// splatseg::pool_batch_ and pool_advance_, the ends of a replayed step of the feature fit: schemas. See ops/replay.py.
#include <torch/library.h>

#include "pooled_checks.h"

namespace splatseg {

void check_pool(const PoolTensors& p) {
  const auto is = [](const at::Tensor& t, at::ScalarType type, int64_t dims) {
    return t.scalar_type() == type && t.dim() == dims && t.is_contiguous();
  };
  TORCH_CHECK_VALUE(is(p.step, at::kLong, 0) && is(p.schedule, at::kInt, 2) && p.schedule.size(1) == 2,
                    "step, schedule: expected () int64 and (steps, 2) int32, found ", p.step.sizes(), " and ",
                    p.schedule.sizes());
  TORCH_CHECK_VALUE(is(p.rates, at::kDouble, 2) && p.rates.sizes() == p.schedule.sizes(),
                    "rates: expected float64 of shape ", p.schedule.sizes(), ", found ", p.rates.sizes());
  TORCH_CHECK_VALUE(is(p.view_start, at::kLong, 1) && is(p.membership, at::kLong, 3) &&
                        p.view_start.size(0) == p.membership.size(0) + 1,
                    "view_start, membership: expected (views + 1,) and (views, p, words) int64, found ",
                    p.view_start.sizes(), " and ", p.membership.sizes());
  TORCH_CHECK_VALUE(is(p.shuffled, at::kLong, 1) && is(p.patch, at::kInt, 1) && p.patch.sizes() == p.shuffled.sizes(),
                    "shuffled, patch: expected (rows,) int64 and int32, found ", p.shuffled.sizes(), " and ",
                    p.patch.sizes());
  TORCH_CHECK_VALUE(is(p.out_rows, at::kLong, 1) && is(p.out_patch, at::kInt, 1) &&
                        p.out_patch.sizes() == p.out_rows.sizes(),
                    "out_rows, out_patch: expected (batch,) int64 and int32, found ", p.out_rows.sizes(), " and ",
                    p.out_patch.sizes());
  TORCH_CHECK_VALUE(is(p.out_membership, at::kLong, 2) && p.out_membership.size(0) == p.membership.size(1) &&
                        p.out_membership.size(1) == p.membership.size(2),
                    "out_membership: expected int64 like one view of membership, found ", p.out_membership.sizes());
  TORCH_CHECK_VALUE(is(p.out_rates, at::kDouble, 1) && p.out_rates.size(0) == 2, "out_rates: expected (2,) float64, found ",
                    p.out_rates.sizes());
}

}  // namespace splatseg

TORCH_LIBRARY_FRAGMENT(splatseg, m) {
  m.def(
      "pool_batch_(Tensor step, Tensor schedule, Tensor rates, Tensor view_start, Tensor shuffled, Tensor patch, "
      "Tensor membership, int empty_row, Tensor(a!) out_rows, Tensor(b!) out_patch, Tensor(c!) out_membership, "
      "Tensor(d!) out_rates) -> ()");
  m.def("pool_advance_(Tensor(a!) step, Tensor loss, Tensor(b!) losses) -> ()");
}
