// splatseg::pooled_transpose_adam_, the transpose of blend and Adam as one gather over a batch's columns: schema and checks.
// See ops/columns.py.
#include "columns_checks.h"

#include <torch/library.h>

namespace splatseg {
namespace {

void check_tables(const ColumnTensors& c) {
  const auto is = [&](const at::Tensor& t, at::ScalarType type, int64_t dims) {
    return t.scalar_type() == type && t.dim() == dims && t.is_contiguous() && t.device() == c.params.device();
  };
  TORCH_CHECK_VALUE(is(c.cells, at::kLong, 1) && c.cells.size(0) == 3, "cells: expected (3,) int64 on ",
                    c.params.device(), ", found ", c.cells.sizes(), " on ", c.cells.device());
  TORCH_CHECK_VALUE(is(c.batch_columns, at::kLong, 2) && c.batch_columns.size(1) == 4 &&
                        is(c.batch_entries, at::kLong, 1) && c.batch_entries.size(0) == c.batch_columns.size(0),
                    "batch_columns, batch_entries: expected (batches, 4) and (batches,) int64, found ",
                    c.batch_columns.sizes(), " and ", c.batch_entries.sizes());
  TORCH_CHECK_VALUE(is(c.ids, at::kInt, 1) && is(c.offsets, at::kInt, 1) &&
                        c.offsets.size(0) == c.ids.size(0) + c.batch_columns.size(0),
                    "ids, offsets: expected (columns,) and (columns + batches,) int32, found ", c.ids.sizes(), " and ",
                    c.offsets.sizes());
  const bool wide = c.params.scalar_type() == at::kDouble;
  const bool fits = is(c.weights, at::kDouble, 1) == wide &&
                    (wide || is(c.weights, at::kFloat, 1) || is(c.weights, at::kHalf, 1));
  TORCH_CHECK_VALUE(is(c.positions, at::kInt, 1) && fits && c.positions.sizes() == c.weights.sizes(),
                    "positions, weights: expected (entries,) int32 and float16 or float32, float64 beside float64, found ",
                    c.positions.sizes(), " and ", c.weights.sizes(), " ", c.weights.scalar_type());
  TORCH_CHECK_VALUE(is(c.rates, at::kDouble, 2) && c.rates.size(1) == 2, "rates: expected (steps, 2) float64 on ",
                    c.params.device(), ", found ", c.rates.sizes(), " ", c.rates.scalar_type());
  TORCH_CHECK_VALUE(is(c.bad, at::kLong, 0), "bad: expected () int64 on ", c.params.device(), ", found ", c.bad.sizes());
}

}  // namespace

void check_columns(const ColumnTensors& c) {
  const auto& params = c.params;
  TORCH_CHECK_VALUE(params.dim() == 2 && params.is_contiguous() &&
                        (params.scalar_type() == at::kFloat || params.scalar_type() == at::kDouble),
                    "params: expected contiguous (n, d) float32 or float64, found ", params.sizes(), " ",
                    params.scalar_type());
  for (const auto* t : {&c.exp_avg, &c.exp_avg_sq, &c.grad}) {
    const bool fits = t == &c.grad ? t->dim() == 2 && t->size(1) == params.size(1) : t->sizes() == params.sizes();
    TORCH_CHECK_VALUE(fits && t->scalar_type() == params.scalar_type() && t->is_contiguous() &&
                          t->device() == params.device(),
                      "exp_avg, exp_avg_sq, grad: expected contiguous ", params.sizes(), " (grad: (rows, ",
                      params.size(1), ")) ", params.scalar_type(), " on ", params.device(), ", found ", t->sizes(), " ",
                      t->scalar_type(), " on ", t->device());
  }
  check_tables(c);
  TORCH_CHECK_VALUE(c.most.size() == 3 && c.most[0] >= 0 && c.most[1] >= 0 && c.most[2] >= 0,
                    "most: expected three numbers of columns, found ", c.most);
}

}  // namespace splatseg

TORCH_LIBRARY_FRAGMENT(splatseg, m) {
  // rates (steps, 2) float64, each as in adam_, and bad () int64 as there.
  m.def(
      "pooled_transpose_adam_(Tensor cells, Tensor batch_columns, Tensor batch_entries, Tensor ids, Tensor offsets, "
      "Tensor positions, Tensor weights, int[] most, Tensor grad, Tensor rates, Tensor(a!) params, Tensor(b!) exp_avg, "
      "Tensor(c!) exp_avg_sq, Tensor(d!) bad, float beta1, float beta2, float eps, float norm_weight) -> ()");
}
