#include "cpu/pieces.h"

#include <omp.h>

#include <atomic>
#include <memory>
#include <utility>

namespace splatseg {
namespace {

// Sets that threads join at the same time. A set's root is its smallest member: a root is only ever hung under a smaller one, so
// that the order of joining shows nowhere.
class Sets {
 public:
  explicit Sets(int64_t n) : parent_(new std::atomic<int32_t>[n]) {}

  void make(int32_t i) { parent_[i].store(i, std::memory_order_relaxed); }

  int32_t find(int32_t i) {
    while (true) {
      int32_t above = parent(i);
      if (above == i) return i;
      const int32_t next = parent(above);
      // Halves the way; fails where another thread has changed it, for the better.
      if (next != above) parent_[i].compare_exchange_weak(above, next, std::memory_order_relaxed);
      i = next;
    }
  }

  void join(int32_t a, int32_t b) {
    while (true) {
      a = find(a), b = find(b);
      if (a == b) return;
      if (a < b) std::swap(a, b);
      int32_t root = a;
      if (parent_[a].compare_exchange_strong(root, b, std::memory_order_relaxed)) return;
    }
  }

 private:
  int32_t parent(int32_t i) const { return parent_[i].load(std::memory_order_relaxed); }

  const std::unique_ptr<std::atomic<int32_t>[]> parent_;
};

}  // namespace

void connected_pieces(const NeighborGraph& graph, float longest, int64_t* pieces, int threads) {
  Sets sets(graph.n);
#pragma omp parallel num_threads(threads)
  {
#pragma omp for schedule(static)
    for (int64_t i = 0; i < graph.n; i++) sets.make(int32_t(i));
#pragma omp for schedule(dynamic, 4096)
    for (int64_t i = 0; i < graph.n; i++)
      for (int64_t j = i * graph.k; j < (i + 1) * graph.k; j++)
        if (graph.distances[j] <= longest && graph.labels[i] == graph.labels[graph.neighbors[j]])
          sets.join(int32_t(i), graph.neighbors[j]);
#pragma omp for schedule(static)
    for (int64_t i = 0; i < graph.n; i++) pieces[i] = sets.find(int32_t(i));
  }
  // Roots come before their members: they have their number when a member asks for it.
  int64_t next = 0;
  for (int64_t i = 0; i < graph.n; i++) pieces[i] = pieces[i] == i ? next++ : pieces[pieces[i]];
}

}  // namespace splatseg
