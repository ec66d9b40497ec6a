#include "cpu/nearest.h"

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <vector>

#include "cpu/halves.h"

namespace splatseg {
namespace {

constexpr int64_t kLeaf = 16;          // points that are compared without asking a box
constexpr int64_t kTask = 1 << 14;     // points that are sorted into their boxes by one thread
constexpr int64_t kGroups = 32;        // groups of places that a thread takes at a time
constexpr double kInfinity = std::numeric_limits<double>::infinity();

template <class T>
struct Point {
  T at[3];
  int32_t id;
};

template <class T>
struct Box {
  T low[3], high[3];
};

// Nothing is rounded differently in a bound than in a distance, and rounding keeps order: no point is nearer than its box.
inline double squared(double x, double y, double z) { return x * x + y * y + z * z; }

template <class T>
double square(const Point<T>& a, const Point<T>& b) {
  return squared(double(a.at[0]) - b.at[0], double(a.at[1]) - b.at[1], double(a.at[2]) - b.at[2]);
}

template <class T>
double bound(const Box<T>& a, const Box<T>& b) {
  double gap[3];
  for (int k = 0; k < 3; k++)
    gap[k] = std::max(0.0, std::max(double(a.low[k]) - b.high[k], double(b.low[k]) - a.high[k]));
  return squared(gap[0], gap[1], gap[2]);
}

template <class T>
double between_centers(const Box<T>& a, const Box<T>& b) {
  double gap[3];
  for (int k = 0; k < 3; k++) gap[k] = 0.5 * (double(a.low[k]) + a.high[k]) - 0.5 * (double(b.low[k]) + b.high[k]);
  return squared(gap[0], gap[1], gap[2]);
}

// Points halved along the longest side of their box, until a range has no more than kLeaf.
template <class T>
class Tree {
 public:
  Tree(const T* points, int64_t n, int threads)
      : root_(root_of(n, kLeaf)), points_(new Point<T>[n]), boxes_(new Box<T>[root_.nodes()]) {
#pragma omp parallel num_threads(threads)
    {
#pragma omp for schedule(static)
      for (int64_t i = 0; i < n; i++)
        points_[i] = {{points[3 * i], points[3 * i + 1], points[3 * i + 2]}, int32_t(i)};
#pragma omp single
      build(root_);
    }
  }

  const Node& root() const { return root_; }
  const Point<T>* points() const { return points_.get(); }
  const Box<T>& box(const Node& node) const { return boxes_[node.number]; }

 private:
  void build(const Node& node) {
    const Box<T> box = around(node);
    boxes_[node.number] = box;
    if (node.below == 0) return;
    int axis = 0;
    for (int k = 1; k < 3; k++)
      if (box.high[k] - box.low[k] > box.high[axis] - box.low[axis]) axis = k;
    std::nth_element(points_.get() + node.begin, points_.get() + node.middle(), points_.get() + node.end,
                     [axis](const Point<T>& a, const Point<T>& b) { return a.at[axis] < b.at[axis]; });
#pragma omp task if (node.size() > kTask)
    build(node.left());
    build(node.right());
#pragma omp taskwait
  }

  Box<T> around(const Node& node) const {
    Box<T> box;
    for (int k = 0; k < 3; k++) box.low[k] = box.high[k] = points_[node.begin].at[k];
    for (int64_t i = node.begin + 1; i < node.end; i++)
      for (int k = 0; k < 3; k++) {
        box.low[k] = std::min(box.low[k], points_[i].at[k]);
        box.high[k] = std::max(box.high[k], points_[i].at[k]);
      }
    return box;
  }

  const Node root_;
  const std::unique_ptr<Point<T>[]> points_;
  const std::unique_ptr<Box<T>[]> boxes_;
};

// Answers groups of places that lie together, one walk through the tree for all of a group.
template <class T>
class Search {
 public:
  Search(const Tree<T>& tree, int64_t count, bool others)
      : tree_(tree), count_(count), others_(others), squares_(kLeaf * count), ids_(kLeaf * count), rows_(kLeaf * count) {}

  // Places of a leaf of their own tree.
  void answer(const Point<T>* places, int64_t size, const Box<T>& box, int32_t* ids, float* distances) {
    places_ = places;
    size_ = size;
    box_ = &box;
    for (int64_t q = 0; q < size; q++) seed_[q] = farthest_of_last(places[q]);
    std::fill(squares_.begin(), squares_.end(), kInfinity);
    std::fill(ids_.begin(), ids_.end(), std::numeric_limits<int32_t>::max());
    update_limit();
    visit(tree_.root(), bound(*box_, tree_.box(tree_.root())));
    for (int64_t q = 0; q < size; q++)
      for (int64_t j = 0; j < count_; j++) {
        ids[places[q].id * count_ + j] = ids_[q * count_ + j];
        distances[places[q].id * count_ + j] = float(std::sqrt(squares_[q * count_ + j]));
      }
    last_.assign(rows_.begin(), rows_.begin() + count_);
  }

 private:
  // What was found for the last group is as many points as are wanted: none of the answer is farther than all of them.
  double farthest_of_last(const Point<T>& place) const {
    double farthest = last_.empty() ? kInfinity : 0;
    for (const int64_t row : last_) {
      if (others_ && tree_.points()[row].id == place.id) return kInfinity;
      farthest = std::max(farthest, square(place, tree_.points()[row]));
    }
    return farthest;
  }

  double limit_of(int64_t q) const { return std::min(seed_[q], squares_[(q + 1) * count_ - 1]); }

  void update_limit() {
    limit_ = 0;
    for (int64_t q = 0; q < size_; q++) limit_ = std::max(limit_, limit_of(q));
  }

  void visit(const Node& node, double least) {
    if (least > limit_) return;
    if (node.below == 0) return compare(node);
    const Node left = node.left(), right = node.right();
    const double of_left = bound(*box_, tree_.box(left)), of_right = bound(*box_, tree_.box(right));
    const bool left_first = of_left != of_right ? of_left < of_right
                                                : between_centers(*box_, tree_.box(left)) <=
                                                      between_centers(*box_, tree_.box(right));
    visit(left_first ? left : right, left_first ? of_left : of_right);
    visit(left_first ? right : left, left_first ? of_right : of_left);
  }

  void compare(const Node& leaf) {
    const Box<T>& box = tree_.box(leaf);
    bool changed = false;
    for (int64_t q = 0; q < size_; q++) {
      const Point<T>& place = places_[q];
      const Box<T> here{{place.at[0], place.at[1], place.at[2]}, {place.at[0], place.at[1], place.at[2]}};
      if (bound(here, box) > limit_of(q)) continue;
      for (int64_t row = leaf.begin; row < leaf.end; row++) changed |= offer(q, row);
    }
    if (changed) update_limit();
  }

  bool offer(int64_t q, int64_t row) {
    const double found = square(places_[q], tree_.points()[row]);
    const int32_t id = tree_.points()[row].id;
    double* squares = squares_.data() + q * count_;
    int32_t* ids = ids_.data() + q * count_;
    int64_t* rows = rows_.data() + q * count_;
    const auto before = [&](int64_t j) { return found < squares[j] || (found == squares[j] && id < ids[j]); };
    int64_t j = count_ - 1;
    if (!before(j) || (others_ && id == places_[q].id)) return false;
    for (; j > 0 && before(j - 1); j--) {
      squares[j] = squares[j - 1];
      ids[j] = ids[j - 1];
      rows[j] = rows[j - 1];
    }
    squares[j] = found;
    ids[j] = id;
    rows[j] = row;
    return true;
  }

  const Tree<T>& tree_;
  const int64_t count_;
  const bool others_;
  std::vector<double> squares_;  // (kLeaf, count) of each place, ascending, as are ids where squares are equal
  std::vector<int32_t> ids_;
  std::vector<int64_t> rows_, last_;
  const Point<T>* places_ = nullptr;
  const Box<T>* box_ = nullptr;
  int64_t size_ = 0;
  double seed_[kLeaf], limit_ = 0;
};

template <class T>
void answer_all(const Tree<T>& tree, const Tree<T>& places, const NearestArgs<T>& args, int32_t* ids, float* distances) {
#pragma omp parallel num_threads(args.threads)
  {
    Search<T> search(tree, args.count, args.others);
#pragma omp for schedule(dynamic, kGroups)
    for (int64_t k = 0; k < places.root().leaves(); k++) {
      const Node leaf = places.root().leaf(k);
      search.answer(places.points() + leaf.begin, leaf.size(), places.box(leaf), ids, distances);
    }
  }
}

}  // namespace

template <class T>
void nearest_points(const NearestArgs<T>& args, int32_t* ids, float* distances) {
  if (args.m == 0) return;
  const Tree<T> tree(args.points, args.n, args.threads);
  if (args.places == nullptr) return answer_all(tree, tree, args, ids, distances);
  answer_all(tree, Tree<T>(args.places, args.m, args.threads), args, ids, distances);
}

template void nearest_points(const NearestArgs<float>&, int32_t*, float*);
template void nearest_points(const NearestArgs<double>&, int32_t*, float*);

}  // namespace splatseg
