// Ranges of points, halved and halved again: a tree whose nodes are numbers. ATen-free.
#pragma once

#include <cstdint>

namespace splatseg {

// A range of points, its number (the halves of k are 2 k + 1 and 2 k + 2), and how often it is halved.
struct Node {
  int64_t number, begin, end;
  int below;

  int64_t size() const { return end - begin; }
  int64_t middle() const { return begin + (end - begin) / 2; }
  Node left() const { return {2 * number + 1, begin, middle(), below - 1}; }
  Node right() const { return {2 * number + 2, middle(), end, below - 1}; }
  int64_t leaves() const { return int64_t(1) << below; }
  int64_t nodes() const { return 2 * leaves() - 1; }

  // The leaf of that number, from the first range to the last.
  Node leaf(int64_t k) const {
    Node node = *this;
    while (node.below > 0) node = k >> (node.below - 1) & 1 ? node.right() : node.left();
    return node;
  }
};

// All of n >= 1 points, halved until no range has more than `most`.
inline Node root_of(int64_t n, int64_t most) {
  int below = 0;
  while ((n - 1) >> below >= most) below++;
  return {0, 0, n, below};
}

}  // namespace splatseg
