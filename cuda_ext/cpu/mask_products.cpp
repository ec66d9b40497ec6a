#include "cpu/mask_products.h"

#include <omp.h>

#include <algorithm>
#include <memory>
#include <utility>

namespace splatseg {
namespace {

constexpr int64_t kBlock = 4096;  // rows that a thread takes at a time; results are put together block by block

// Calls work(begin, end, block number) for blocks of rows; each thread makes one Worker.
template <class Worker>
void for_blocks(int64_t count, int64_t step, int threads, const Worker& prototype) {
  const int64_t blocks = (count + step - 1) / step;
#pragma omp parallel num_threads(threads)
  {
    Worker worker(prototype);
#pragma omp for schedule(dynamic, 1)
    for (int64_t b = 0; b < blocks; b++) worker(b * step, std::min(count, (b + 1) * step), b);
  }
}

// Sums by column, and which columns have one.
template <class T>
class Sums {
 public:
  explicit Sums(int64_t width) : sums_(width, T(0)) {}

  void add(int32_t column, T value) {
    if (sums_[column] == T(0)) touched_.push_back(column);
    sums_[column] += value;
  }

  // Calls visit(column, sum), columns ascending, and starts anew.
  template <class Visit>
  void take(Visit visit) {
    std::sort(touched_.begin(), touched_.end());
    for (const int32_t column : touched_) {
      visit(column, sums_[column]);
      sums_[column] = T(0);
    }
    touched_.clear();
  }

 private:
  std::vector<T> sums_;
  std::vector<int32_t> touched_;
};

// Calls visit(g) for Gaussians in a list. Their rows lie anywhere, and waiting for them takes longer than reading them: a row
// is asked for some Gaussians ahead, and where it lies a few more ahead of that.
template <class Visit>
void for_rows(const int32_t* begin, const int32_t* end, SparseRows rows, const float* weights, Visit visit) {
  constexpr int64_t kAhead = 12;
  const int64_t count = end - begin;
  for (int64_t i = 0; i < count; i++) {
    if (i + 2 * kAhead < count) {
      __builtin_prefetch(rows.offsets + begin[i + 2 * kAhead]);
      __builtin_prefetch(weights + begin[i + 2 * kAhead]);
    }
    if (i + kAhead < count) __builtin_prefetch(rows.begin(begin[i + kAhead]));
    visit(begin[i]);
  }
}

FoundRows joined(std::vector<FoundRows>& blocks, int64_t count) {
  FoundRows all;
  all.offsets.reserve(count + 1);
  all.offsets.push_back(0);
  size_t columns = 0, values = 0;
  for (const FoundRows& block : blocks) {
    columns += block.columns.size();
    values += block.values.size();
  }
  all.columns.reserve(columns);
  all.values.reserve(values);
  for (FoundRows& block : blocks) {
    const int64_t base = all.offsets.back();
    for (const int64_t end : block.offsets) all.offsets.push_back(base + end);
    all.columns.insert(all.columns.end(), block.columns.begin(), block.columns.end());
    all.values.insert(all.values.end(), block.values.begin(), block.values.end());
    block = {};
  }
  return all;
}

Overlaps joined(std::vector<Overlaps>& blocks) {
  Overlaps all;
  for (Overlaps& block : blocks) {
    all.row.insert(all.row.end(), block.row.begin(), block.row.end());
    all.column.insert(all.column.end(), block.column.begin(), block.column.end());
    all.value.insert(all.value.end(), block.value.begin(), block.value.end());
    block = {};
  }
  return all;
}

// A pixel's say on a Gaussian.
struct Entry {
  int32_t patch;
  float weight;
};

// Entries by Gaussian, patches ascending.
struct ByGaussian {
  std::vector<int32_t> gaussians;
  std::vector<int64_t> offsets;
  std::unique_ptr<Entry[]> entries;
};

// Pixels by patch.
std::vector<int32_t> patch_order(const int64_t* patch, int64_t pixels, int64_t patches) {
  std::vector<int32_t> next(patches + 1, 0), order(pixels);
  for (int64_t p = 0; p < pixels; p++) next[patch[p] + 1]++;
  for (int64_t k = 0; k < patches; k++) next[k + 1] += next[k];
  for (int64_t p = 0; p < pixels; p++) order[next[patch[p]]++] = int32_t(p);
  return order;
}

ByGaussian by_gaussian(SparseRows pixels, const float* weights, const int64_t* patch, int64_t patches, int64_t count) {
  const int64_t total = pixels.offsets[pixels.count];
  std::vector<int32_t> number(count, 0);
  for (int64_t e = 0; e < total; e++) number[pixels.columns[e]]++;
  ByGaussian found;
  std::vector<int32_t> next;
  int32_t end = 0;
  for (int64_t g = 0; g < count; g++) {
    if (number[g] == 0) continue;
    const int32_t entries = number[g];
    number[g] = int32_t(found.gaussians.size());
    found.gaussians.push_back(int32_t(g));
    next.push_back(end);
    end += entries;
  }
  found.offsets.assign(next.begin(), next.end());
  found.offsets.push_back(end);
  found.entries.reset(new Entry[size_t(total)]);
  for (const int32_t p : patch_order(patch, pixels.count, patches))
    for (int64_t e = pixels.offsets[p]; e < pixels.offsets[p + 1]; e++)
      found.entries[next[number[pixels.columns[e]]]++] = {int32_t(patch[p]), weights[e]};
  return found;
}

// Sums are float64, where those of blending weights (multiples of 2^-33 below 1) are exact: no order shows.
struct Observer {
  const ByGaussian& shown;
  SparseRows patches;
  Sums<double> on_mask;
  std::vector<float>& weight;
  std::vector<FoundRows>& found;

  void operator()(int64_t begin, int64_t end, int64_t block) {
    FoundRows& out = found[block];
    for (int64_t k = begin; k < end; k++) {
      const Entry *e = &shown.entries[shown.offsets[k]], *last = shown.entries.get() + shown.offsets[k + 1];
      double total = 0;
      while (e < last) {
        const int32_t patch = e->patch;
        double sum = 0;
        for (; e < last && e->patch == patch; e++) sum += e->weight;
        total += sum;
        for (const int32_t* mask = patches.begin(patch); mask < patches.end(patch); mask++) on_mask.add(*mask, sum);
      }
      weight[k] = float(total);
      on_mask.take([&](int32_t mask, double sum) {
        if (float(sum) > 0.5f * weight[k]) out.columns.push_back(mask);
      });
      out.offsets.push_back(int64_t(out.columns.size()));
    }
  }
};

// The weight that one mask shares with each column of `others`.
template <class Keep>
struct Sharer {
  SparseRows by_mask, others;
  const float* weights;
  Sums<float> shared;
  Keep keep;
  std::vector<Overlaps>& found;

  void operator()(int64_t begin, int64_t end, int64_t block) {
    for (int64_t mask = begin; mask < end; mask++) {
      for_rows(by_mask.begin(mask), by_mask.end(mask), others, weights, [&](int32_t g) {
        const int32_t* last = others.end(g);
        for (const int32_t* other = keep.first(mask, others.begin(g), last); other < last; other++)
          shared.add(*other, weights[g]);
      });
      shared.take([&](int32_t other, float sum) {
        const float overlap = keep.overlap(mask, other, sum);
        if (!(overlap >= keep.least)) return;
        found[block].row.push_back(mask);
        found[block].column.push_back(other);
        found[block].value.push_back(overlap);
      });
    }
  }
};

// Masks of later views; of two masks neither of which is but a corner in the other's view.
struct LaterViews {
  const int64_t* view;
  const int32_t* later;  // the first mask of a later view
  const float* shown;
  int64_t views;
  float least;

  const int32_t* first(int64_t mask, const int32_t* begin, const int32_t* end) const {
    return std::lower_bound(begin, end, later[mask]);
  }
  float overlap(int64_t mask, int64_t other, float shared) const {
    const float *one = shown + mask * views, *two = shown + other * views;
    const float here = one[view[other]], there = two[view[mask]];
    if (!(here > 0.3f * one[view[mask]] && there > 0.3f * two[view[other]])) return -1.f;
    return shared / (here + there - shared);
  }
};

struct AllSets {
  const int64_t* view;
  const float* own;
  const float* shown;
  int64_t views;
  float least;

  const int32_t* first(int64_t, const int32_t* begin, const int32_t*) const { return begin; }
  float overlap(int64_t mask, int64_t set, float shared) const {
    return shared / std::max(own[mask] + shown[set * views + view[mask]] - shared, 1e-9f);
  }
};

constexpr int64_t kMasks = 64;  // that a thread takes at a time

template <class Keep>
Overlaps overlaps(SparseRows by_mask, SparseRows others, int64_t width, const float* weights, Keep keep, int threads) {
  std::vector<Overlaps> found((by_mask.count + kMasks - 1) / kMasks);
  for_blocks(by_mask.count, kMasks, threads, Sharer<Keep>{by_mask, others, weights, Sums<float>(width), keep, found});
  return joined(found);
}

struct Voter {
  const VoteArgs& args;
  const uint8_t* has;  // (views, sets) whether a view has a mask of the set
  std::vector<FoundRows>& found;
  std::vector<double> votes;
  std::vector<int32_t> touched;
  std::vector<double> total;

  void operator()(int64_t begin, int64_t end, int64_t block) {
    for (int64_t g = begin; g < end; g++) {
      count(g);
      std::sort(touched.begin(), touched.end());
      total.assign(touched.size(), 0.);
      for (int64_t e = args.seen.offsets[g]; e < args.seen.offsets[g + 1] && !touched.empty(); e++) {
        const uint8_t* row = has + args.seen.columns[e] * args.sets;
        for (size_t t = 0; t < touched.size(); t++) total[t] += row[touched[t]] ? double(args.seen_weights[e]) : 0.;
      }
      for (size_t t = 0; t < touched.size(); t++) {
        double& held = votes[touched[t]];
        if (held > args.least * total[t]) {
          found[block].columns.push_back(touched[t]);
          found[block].values.push_back(float(held / total[t]));
        }
        held = 0.;
      }
      touched.clear();
      found[block].offsets.push_back(int64_t(found[block].columns.size()));
    }
  }

  // Both lists ascend by view.
  void count(int64_t g) {
    int64_t e = args.seen.offsets[g];
    const int64_t last = args.seen.offsets[g + 1];
    for (const int32_t* mask = args.masks.begin(g); mask < args.masks.end(g); mask++) {
      while (e < last && args.seen.columns[e] < args.view[*mask]) e++;
      const int64_t set = args.owner[*mask];
      if (set < 0 || e == last || args.seen.columns[e] != args.view[*mask]) continue;
      if (votes[set] == 0.) touched.push_back(int32_t(set));
      votes[set] += double(args.seen_weights[e]);
    }
  }
};

}  // namespace

Observed observe_masks(SparseRows pixels, const float* weights, const int64_t* patch, SparseRows patches, int64_t width,
                       int64_t count, int threads) {
  ByGaussian shown = by_gaussian(pixels, weights, patch, patches.count, count);
  const int64_t found = int64_t(shown.gaussians.size());
  std::vector<FoundRows> blocks((found + kBlock - 1) / kBlock);
  Observed out;
  out.weight.resize(found);
  for_blocks(found, kBlock, threads, Observer{shown, patches, Sums<double>(width), out.weight, blocks});
  out.masks = joined(blocks, found);
  out.gaussians = std::move(shown.gaussians);
  return out;
}

void transpose_rows(SparseRows rows, int64_t width, int64_t* offsets, int32_t* found) {
  const int64_t total = rows.offsets[rows.count];
  std::fill(offsets, offsets + width + 1, 0);
  for (int64_t e = 0; e < total; e++) offsets[rows.columns[e] + 1]++;
  for (int64_t c = 0; c < width; c++) offsets[c + 1] += offsets[c];
  std::vector<int64_t> cursor(offsets, offsets + width);
  for (int64_t r = 0; r < rows.count; r++)
    for (const int32_t* column = rows.begin(r); column < rows.end(r); column++) found[cursor[*column]++] = int32_t(r);
}

void shared_weights(SparseRows left, SparseRows right, const float* weights, int64_t width, float* out, int threads) {
#pragma omp parallel for schedule(dynamic, 16) num_threads(threads)
  for (int64_t a = 0; a < left.count; a++) {
    float* sums = out + a * width;
    std::fill(sums, sums + width, 0.f);
    for_rows(left.begin(a), left.end(a), right, weights, [&](int32_t g) {
      for (const int32_t* b = right.begin(g); b < right.end(g); b++) sums[*b] += weights[g];
    });
  }
}

Overlaps mask_agreement(SparseRows by_mask, SparseRows masks, const float* weights, const int64_t* view, const float* shown,
                        int64_t views, float least, int threads) {
  const int64_t count = by_mask.count;
  std::vector<int32_t> later(count);
  for (int64_t mask = count - 1; mask >= 0; mask--) {
    const bool last = mask == count - 1 || view[mask] != view[mask + 1];
    later[mask] = last ? int32_t(mask + 1) : later[mask + 1];
  }
  return overlaps(by_mask, masks, count, weights, LaterViews{view, later.data(), shown, views, least}, threads);
}

Overlaps mask_matches(SparseRows by_mask, SparseRows sets, const float* weights, const int64_t* view, const float* own,
                      const float* shown, int64_t set_count, int64_t views, float least, int threads) {
  return overlaps(by_mask, sets, set_count, weights, AllSets{view, own, shown, views, least}, threads);
}

FoundRows mask_votes(const VoteArgs& args) {
  std::vector<uint8_t> has(args.views * args.sets, 0);
  for (int64_t mask = 0; mask < args.mask_count; mask++)
    if (args.owner[mask] >= 0) has[args.view[mask] * args.sets + args.owner[mask]] = 1;
  const int64_t count = args.masks.count;
  std::vector<FoundRows> found((count + kBlock - 1) / kBlock);
  for_blocks(count, kBlock, args.threads, Voter{args, has.data(), found, std::vector<double>(args.sets, 0.), {}, {}});
  return joined(found, count);
}

void masks_agreed(SparseRows masks, const int64_t* view, const int64_t* owner, SparseRows sets, int64_t set_count,
                  int32_t* out, int threads) {
#pragma omp parallel num_threads(threads)
  {
    std::vector<int64_t> inside(set_count, -1);  // the last Gaussian that is in the set
#pragma omp for schedule(dynamic, kBlock)
    for (int64_t g = 0; g < masks.count; g++) {
      for (const int32_t* set = sets.begin(g); set < sets.end(g); set++) inside[*set] = g;
      int32_t views = 0;
      int64_t last = -1;
      for (const int32_t* mask = masks.begin(g); mask < masks.end(g); mask++) {
        const int64_t set = owner[*mask];
        if (set < 0 || inside[set] != g || view[*mask] == last) continue;
        last = view[*mask];
        views++;
      }
      out[g] = views;
    }
  }
}

}  // namespace splatseg
