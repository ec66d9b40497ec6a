// The minimum spanning tree of mutual reachability. ATen-free. The specification is
// splatseg/ops/reference/spanning_tree.py: squares of differences are added channel by channel in float64; edges are ordered by
// length and then by their points' numbers, smaller first, so that there is one shortest tree, whatever the number of threads.
#pragma once

#include <cstdint>

#include "cpu/dispatch.h"

namespace splatseg {

constexpr int64_t kTreeLeaf = 16;  // points of a block

struct ReachabilityArgs {
  const double* points;   // (count, dim), finite, no two alike
  const int64_t* copies;  // (count,) how often each comes, >= 1
  int64_t count, dim, min_samples;
  int threads;
};

// core (count,): distance of each point to the `min_samples`-th nearest other one, copies counted; edges (count - 1, 2), smaller
// number first, in any order; lengths (count - 1,): the largest of the distance and both core distances. 1 <= min_samples <
// sum of the copies.
void reachability_tree(const ReachabilityArgs& args, double* core, int64_t* edges, double* lengths);

}  // namespace splatseg

// squares (kTreeLeaf,) of the distances of a place (dim,) to the points of block (dim, kTreeLeaf).
SPLATSEG_KERNEL(void, squares_to_block, (const double* block, const double* place, int64_t dim, double* squares))
