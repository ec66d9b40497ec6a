// Distances of a point to a block of points. Mirrors squared_distances() of splatseg/ops/reference/spanning_tree.py.
// A product that is rounded before it is added: the same bits on every instruction set, and as bounds are made.
#pragma GCC optimize("fp-contract=off")

#include "cpu/spanning_tree.h"

#include "cpu/simd.h"

namespace splatseg::SPLATSEG_ISA {

void squares_to_block(const double* block, const double* place, int64_t dim, double* squares) {
  static_assert(kTreeLeaf == 2 * kLanes);
  f64x8 first = splat(0.0), second = splat(0.0);
  for (int64_t k = 0; k < dim; k++, block += kTreeLeaf) {
    const f64x8 here = splat(place[k]), a = load(block) - here, b = load(block + kLanes) - here;
    first += a * a;
    second += b * b;
  }
  store(squares, first);
  store(squares + kLanes, second);
}

}  // namespace splatseg::SPLATSEG_ISA
