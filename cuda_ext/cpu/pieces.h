// Connected pieces of a graph of neighbors. ATen-free. The specification is splatseg/ops/reference/pieces.py.
#pragma once

#include <cstdint>

namespace splatseg {

// labels (n,); neighbors (n, k), each in 0..n - 1, and their distances.
struct NeighborGraph {
  const int64_t* labels;
  const int32_t* neighbors;
  const float* distances;
  int64_t n, k;
};

// pieces (n,): number of the piece of each, by its first member. Edges join equal labels and are at most `longest`.
void connected_pieces(const NeighborGraph& graph, float longest, int64_t* pieces, int threads);

}  // namespace splatseg
