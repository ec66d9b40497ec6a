#include "cpu/spanning_tree.h"

#include <omp.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "cpu/halves.h"

namespace splatseg {
namespace {

constexpr int64_t kListed = 16;  // nearest points that are kept of each: most shortest edges are among them
constexpr double kUnreached = std::numeric_limits<double>::infinity();
constexpr double kRounding = 1 + 4 * std::numeric_limits<double>::epsilon();  // of a square root and its square

// Points in blocks of neighbors, and boxes around them. A row is a point's place in that order.
class Blocks {
 public:
  Blocks(const double* points, int64_t count, int64_t dim)
      : root_(root_of(count, kTreeLeaf)), dim_(dim), id_(count), rows_(count * dim), low_(root_.nodes() * dim),
        high_(root_.nodes() * dim), blocks_(root_.leaves() * dim * kTreeLeaf, 0.0) {
    std::iota(id_.begin(), id_.end(), int32_t(0));
    divide(root_, points);
    for (int64_t r = 0; r < count; r++) std::copy_n(points + id_[r] * dim, dim, rows_.data() + r * dim);
    for (int64_t k = 0; k < root_.leaves(); k++) {
      const Node leaf = root_.leaf(k);
      for (int64_t r = leaf.begin; r < leaf.end; r++)
        for (int64_t c = 0; c < dim; c++) blocks_[(k * dim + c) * kTreeLeaf + r - leaf.begin] = rows_[r * dim + c];
    }
  }

  const Node& root() const { return root_; }
  int64_t dim() const { return dim_; }
  int64_t count() const { return int64_t(id_.size()); }
  int32_t id(int64_t row) const { return id_[row]; }
  const double* row(int64_t row) const { return rows_.data() + row * dim_; }
  const double* block(const Node& leaf) const { return blocks_.data() + (leaf.number - root_.leaves() + 1) * dim_ * kTreeLeaf; }

  // Of the distance of any two points of the nodes, squared; computed as distances are, and so never above one.
  double bound(const Node& a, const Node& b) const { return gap(low(a), high(a), low(b), high(b)); }
  double bound(const double* place, const Node& node) const { return gap(place, place, low(node), high(node)); }

  bool left_is_nearer(const Node& left, const Node& right, const Node& to) const {
    double difference = 0;
    for (int64_t c = 0; c < dim_; c++) {
      const double here = low(to)[c] + high(to)[c];
      const double l = low(left)[c] + high(left)[c] - here, r = low(right)[c] + high(right)[c] - here;
      difference += l * l - r * r;
    }
    return difference <= 0;
  }

 private:
  const double* low(const Node& node) const { return low_.data() + node.number * dim_; }
  const double* high(const Node& node) const { return high_.data() + node.number * dim_; }

  double gap(const double* a_low, const double* a_high, const double* b_low, const double* b_high) const {
    double sum = 0;
    for (int64_t c = 0; c < dim_; c++) {
      const double apart = std::max(0.0, std::max(a_low[c] - b_high[c], b_low[c] - a_high[c]));
      sum += apart * apart;
    }
    return sum;
  }

  void divide(const Node& node, const double* points) {
    double* low = low_.data() + node.number * dim_;
    double* high = high_.data() + node.number * dim_;
    std::fill_n(low, dim_, kUnreached);
    std::fill_n(high, dim_, -kUnreached);
    for (int64_t r = node.begin; r < node.end; r++)
      for (int64_t c = 0; c < dim_; c++) {
        low[c] = std::min(low[c], points[id_[r] * dim_ + c]);
        high[c] = std::max(high[c], points[id_[r] * dim_ + c]);
      }
    if (node.below == 0) return;
    int64_t axis = 0;
    for (int64_t c = 1; c < dim_; c++)
      if (high[c] - low[c] > high[axis] - low[axis]) axis = c;
    std::nth_element(id_.begin() + node.begin, id_.begin() + node.middle(), id_.begin() + node.end,
                     [&](int32_t a, int32_t b) { return points[a * dim_ + axis] < points[b * dim_ + axis]; });
    divide(node.left(), points);
    divide(node.right(), points);
  }

  const Node root_;
  const int64_t dim_;
  std::vector<int32_t> id_;
  std::vector<double> rows_, low_, high_, blocks_;
};

// Visits nodes, near ones first, as long as `wanted(node, least squared distance)` says so; leaf(node) at the end of each way.
template <class Wanted, class Leaf>
void walk(const Blocks& points, const Node& from, const Node& node, const Wanted& wanted, const Leaf& leaf) {
  if (node.below == 0) return leaf(node);
  const Node left = node.left(), right = node.right();
  const double of_left = points.bound(from, left), of_right = points.bound(from, right);
  const bool left_first = of_left != of_right ? of_left < of_right : points.left_is_nearer(left, right, from);
  const Node& first = left_first ? left : right;
  const Node& second = left_first ? right : left;
  if (wanted(first, std::min(of_left, of_right))) walk(points, from, first, wanted, leaf);
  if (wanted(second, std::max(of_left, of_right))) walk(points, from, second, wanted, leaf);
}

struct Near {
  double square;
  int32_t row;
};

// Per row: `listed` nearest points, itself among them, and the core distance.
struct Lists {
  int64_t listed;
  std::vector<Near> near;
  std::vector<double> core;
  const Near* of(int64_t row) const { return near.data() + row * listed; }
};

// The nearest `wanted` of each point of a leaf, ascending: (leaf's size, wanted).
void nearest_of_leaf(const Blocks& points, const Node& from, int64_t wanted, std::vector<Near>& near) {
  near.assign(from.size() * wanted, {kUnreached, -1});
  double limit = kUnreached;
  const auto farthest = [&](int64_t q) { return near[(q + 1) * wanted - 1].square; };
  const auto compare = [&](const Node& leaf) {
    alignas(64) double squares[kTreeLeaf];
    for (int64_t q = 0; q < from.size(); q++) {
      const double* place = points.row(from.begin + q);
      if (points.bound(place, leaf) >= farthest(q)) continue;
      SPLATSEG_PICK(squares_to_block)(points.block(leaf), place, points.dim(), squares);
      Near* list = near.data() + q * wanted;
      for (int64_t j = 0; j < leaf.size(); j++) {
        if (!(squares[j] < list[wanted - 1].square)) continue;
        int64_t k = wanted - 1;
        for (; k > 0 && squares[j] < list[k - 1].square; k--) list[k] = list[k - 1];
        list[k] = {squares[j], int32_t(leaf.begin + j)};
      }
    }
    limit = 0;
    for (int64_t q = 0; q < from.size(); q++) limit = std::max(limit, farthest(q));
  };
  walk(points, from, points.root(), [&](const Node&, double least) { return least < limit; }, compare);
}

Lists nearest_lists(const Blocks& points, const ReachabilityArgs& args) {
  const int64_t count = args.count, needed = std::min(args.min_samples + 1, count);
  const int64_t wanted = std::min(std::max(needed, kListed), count);
  Lists lists{std::min(kListed, count), {}, std::vector<double>(count)};
  lists.near.resize(count * lists.listed);
#pragma omp parallel num_threads(args.threads)
  {
    std::vector<Near> near;
#pragma omp for schedule(dynamic, 1)
    for (int64_t k = 0; k < points.root().leaves(); k++) {
      const Node leaf = points.root().leaf(k);
      nearest_of_leaf(points, leaf, wanted, near);
      for (int64_t q = 0; q < leaf.size(); q++) {
        const Near* list = near.data() + q * wanted;
        std::copy_n(list, lists.listed, lists.near.data() + (leaf.begin + q) * lists.listed);
        int64_t met = 0, j = -1;
        while (met <= args.min_samples) met += args.copies[points.id(list[++j].row)];
        lists.core[leaf.begin + q] = std::sqrt(list[j].square);
      }
    }
  }
  return lists;
}

// Boruvka's rounds: every component takes its shortest edge to another.
class Rounds {
 public:
  Rounds(const Blocks& points, const Lists& lists, int threads)
      : points_(points), lists_(lists), threads_(threads), component_(points.count()), least_(points.count(), 0.0),
        other_(points.count(), -1), limits_(points.count()), only_(points.root().nodes()),
        least_core_(points.root().nodes()) {
    std::iota(component_.begin(), component_.end(), int32_t(0));
    components_ = points.count();
    find_least_core(points.root());
  }

  void run(int64_t* edges, double* lengths) {
    while (components_ > 1) {
      for (int64_t c = 0; c < components_; c++) limits_[c].store(kUnreached, std::memory_order_relaxed);
      find_only(points_.root());
      const int64_t leaves = points_.root().leaves();
#pragma omp parallel num_threads(threads_)
      {
#pragma omp for schedule(static)
        for (int64_t r = 0; r < points_.count(); r++) look_at_list(r);
#pragma omp for schedule(dynamic, 1)
        for (int64_t k = 0; k < leaves; k++) search(points_.root().leaf(k));
      }
      join(edges, lengths);
    }
  }

 private:
  struct Edge {
    double length = kUnreached;
    int32_t low = 0, high = 0;
    bool before(const Edge& b) const {
      return length != b.length ? length < b.length : low != b.low ? low < b.low : high < b.high;
    }
  };

  double limit(int64_t row) const { return limits_[component_[row]].load(std::memory_order_relaxed); }

  void lower_limit(int64_t row, double length) {
    std::atomic<double>& limit = limits_[component_[row]];
    double before = limit.load(std::memory_order_relaxed);
    while (length < before && !limit.compare_exchange_weak(before, length, std::memory_order_relaxed)) {
    }
  }

  double length(int64_t row, int64_t other, double square) const {
    return std::max(std::sqrt(square), std::max(lists_.core[row], lists_.core[other]));
  }

  bool nearer(double length, int64_t other, double than, int64_t best) const {
    return length < than || (length == than && (best < 0 || points_.id(other) < points_.id(best)));
  }

  // Settles row's nearest point of another component where its list knows it; else a bound.
  void look_at_list(int64_t row) {
    if (other_[row] >= 0 && component_[other_[row]] != component_[row]) return lower_limit(row, least_[row]);
    other_[row] = -1;
    double best = kUnreached;
    int32_t found = -1;
    const Near* list = lists_.of(row);
    for (int64_t k = 0; k < lists_.listed; k++) {
      if (component_[list[k].row] == component_[row]) continue;
      const double length = this->length(row, list[k].row, list[k].square);
      if (nearer(length, list[k].row, best, found)) best = length, found = list[k].row;
    }
    // What is not listed is as far as the last that is, and may be as far as `best` with a lower number.
    const double unlisted = lists_.listed == points_.count()
                                ? kUnreached
                                : std::max(std::sqrt(list[lists_.listed - 1].square), lists_.core[row]);
    if (best < unlisted) other_[row] = found;
    least_[row] = other_[row] >= 0 ? best : std::max(least_[row], unlisted);
    if (found >= 0) lower_limit(row, best);
  }

  // The same for all points of a leaf that may have their component's shortest edge.
  void search(const Node& from) {
    double best[kTreeLeaf], most = 0;
    int32_t found[kTreeLeaf];
    int64_t open[kTreeLeaf], opened = 0;
    for (int64_t q = 0; q < from.size(); q++) {
      const int64_t row = from.begin + q;
      best[q] = kUnreached;
      found[q] = -1;
      if (other_[row] < 0 && least_[row] <= limit(row)) open[opened++] = q;
    }
    if (opened == 0) return;
    const auto reach = [&](int64_t q) { return std::min(best[q], limit(from.begin + q)); };
    const auto update = [&] {
      most = 0;
      for (int64_t k = 0; k < opened; k++) most = std::max(most, reach(open[k]));
    };
    update();
    const auto wanted = [&](const Node& node, double least) {
      return least <= most * most * kRounding && least_core_[node.number] <= most &&
             (only_[node.number] < 0 || only_[node.number] != only_[from.number]);
    };
    const auto compare = [&](const Node& leaf) {
      alignas(64) double squares[kTreeLeaf];
      for (int64_t k = 0; k < opened; k++) {
        const int64_t q = open[k], row = from.begin + q;
        const double farthest = reach(q), square = farthest * farthest * kRounding;
        if (only_[leaf.number] == component_[row] || points_.bound(points_.row(row), leaf) > square) continue;
        SPLATSEG_PICK(squares_to_block)(points_.block(leaf), points_.row(row), points_.dim(), squares);
        for (int64_t j = 0; j < leaf.size(); j++) {
          const int64_t other = leaf.begin + j;
          if (squares[j] > square || component_[other] == component_[row]) continue;
          const double length = this->length(row, other, squares[j]);
          if (nearer(length, other, best[q], found[q])) best[q] = length, found[q] = int32_t(other);
        }
        if (found[q] >= 0) lower_limit(row, best[q]);
      }
      update();
    };
    if (wanted(points_.root(), 0)) walk(points_, from, points_.root(), wanted, compare);
    for (int64_t k = 0; k < opened; k++) {
      const int64_t row = from.begin + open[k];
      const double searched = limit(row);  // all within it was looked at; beyond it, some
      if (found[open[k]] >= 0 && best[open[k]] <= searched) other_[row] = found[open[k]];
      least_[row] = std::min(best[open[k]], searched);
    }
  }

  void join(int64_t*& edges, double*& lengths) {
    std::vector<Edge> shortest(components_);
    for (int64_t r = 0; r < points_.count(); r++) {
      if (other_[r] < 0) continue;
      const int32_t a = points_.id(r), b = points_.id(other_[r]);
      const Edge edge{least_[r], std::min(a, b), std::max(a, b)};
      if (component_[other_[r]] != component_[r] && edge.before(shortest[component_[r]])) shortest[component_[r]] = edge;
    }
    std::vector<int32_t> of_id(points_.count()), root(components_);
    for (int64_t r = 0; r < points_.count(); r++) of_id[points_.id(r)] = component_[r];
    std::iota(root.begin(), root.end(), int32_t(0));
    const auto find = [&](int32_t c) {
      while (root[c] != c) c = root[c] = root[root[c]];
      return c;
    };
    for (const Edge& edge : shortest) {
      const int32_t a = find(of_id[edge.low]), b = find(of_id[edge.high]);
      if (a == b) continue;  // both took the same edge
      root[std::max(a, b)] = std::min(a, b);
      *edges++ = edge.low;
      *edges++ = edge.high;
      *lengths++ = edge.length;
    }
    std::vector<int32_t> number(components_, -1);
    int32_t next = 0;
    for (int32_t c = 0; c < components_; c++)
      if (find(c) == c) number[c] = next++;
    for (int32_t& c : component_) c = number[find(c)];
    components_ = next;
  }

  int32_t find_only(const Node& node) {
    int32_t only = component_[node.begin];
    if (node.below > 0) {
      const int32_t left = find_only(node.left()), right = find_only(node.right());
      only = left == right ? left : -1;
    } else {
      for (int64_t r = node.begin; r < node.end; r++)
        if (component_[r] != only) only = -1;
    }
    return only_[node.number] = only;
  }

  double find_least_core(const Node& node) {
    double least = kUnreached;
    if (node.below > 0)
      least = std::min(find_least_core(node.left()), find_least_core(node.right()));
    else
      for (int64_t r = node.begin; r < node.end; r++) least = std::min(least, lists_.core[r]);
    return least_core_[node.number] = least;
  }

  const Blocks& points_;
  const Lists& lists_;
  const int threads_;
  std::vector<int32_t> component_;           // of each row
  int64_t components_ = 0;
  std::vector<double> least_;                // length of row's shortest edge to another component, or a bound below it
  std::vector<int32_t> other_;               // where that edge leads, -1 where there is only a bound
  std::vector<std::atomic<double>> limits_;  // of each component: its shortest edge so far
  std::vector<int32_t> only_;                // the one component of a node's points, -1 for several
  std::vector<double> least_core_;           // of a node's points
};

}  // namespace

void reachability_tree(const ReachabilityArgs& args, double* core, int64_t* edges, double* lengths) {
  if (args.count == 0) return;
  const Blocks points(args.points, args.count, args.dim);
  const Lists lists = nearest_lists(points, args);
  for (int64_t r = 0; r < args.count; r++) core[points.id(r)] = lists.core[r];
  Rounds(points, lists, args.threads).run(edges, lengths);
}

}  // namespace splatseg
