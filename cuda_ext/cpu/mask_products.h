// Products of sparse 0/1 matrices of Gaussians by masks, views and sets. ATen-free. The specification is
// splatseg/ops/reference/mask_products.py; products are summed in the order of that (Gaussians ascending), so that they have
// the same bits, whatever the number of threads.
#pragma once

#include <cstdint>
#include <vector>

namespace splatseg {

// Row r has columns[offsets[r] .. offsets[r + 1]), ascending.
struct SparseRows {
  int64_t count;
  const int64_t* offsets;
  const int32_t* columns;
  const int32_t* begin(int64_t row) const { return columns + offsets[row]; }
  const int32_t* end(int64_t row) const { return columns + offsets[row + 1]; }
  int64_t size(int64_t row) const { return offsets[row + 1] - offsets[row]; }
};

// Rows found one after the other: offsets (rows + 1), columns, and a value of each entry where entries have one.
struct FoundRows {
  std::vector<int64_t> offsets;
  std::vector<int32_t> columns;
  std::vector<float> values;
};

// What a view's pixels say: the Gaussians that they show, ascending, the weight of each, and the masks in which more than
// half of it lies.
struct Observed {
  std::vector<int32_t> gaussians;
  std::vector<float> weight;
  FoundRows masks;
};

// pixels: Gaussians of each; weights of those entries; patch of each pixel; masks of each patch; width: masks.
Observed observe_masks(SparseRows pixels, const float* weights, const int64_t* patch, SparseRows patches, int64_t width,
                       int64_t count, int threads);

// offsets (width + 1) and rows (entries) of the transposed matrix.
void transpose_rows(SparseRows rows, int64_t width, int64_t* offsets, int32_t* found);

// out (left.count, width): weight of the Gaussians that are in each two of left (by column: its rows list Gaussians) and right
// (rows of Gaussians).
void shared_weights(SparseRows left, SparseRows right, const float* weights, int64_t width, float* out, int threads);

// Pairs whose overlap is large enough.
struct Overlaps {
  std::vector<int64_t> row, column;
  std::vector<float> value;
};

// Of each mask and the masks of later views. shown (masks, views): weight that each view sees of each mask.
Overlaps mask_agreement(SparseRows by_mask, SparseRows masks, const float* weights, const int64_t* view, const float* shown,
                        int64_t views, float least, int threads);

// Of each mask and sets. own (masks): weight of each; shown (sets, views): weight that each view sees of each set.
Overlaps mask_matches(SparseRows by_mask, SparseRows sets, const float* weights, const int64_t* view, const float* own,
                      const float* shown, int64_t set_count, int64_t views, float least, int threads);

struct VoteArgs {
  SparseRows masks;          // of each Gaussian
  SparseRows seen;           // views of each Gaussian
  const float* seen_weights; // of those entries
  const int64_t* view;       // of each mask
  const int64_t* owner;      // set of each mask, -1 for none
  int64_t mask_count, views, sets;
  double least;
  int threads;
};

// Sets of each Gaussian whose masks hold it in more than `least` of what their views show of it, and that share.
FoundRows mask_votes(const VoteArgs& args);

// out (n): views in which a mask holds the Gaussian whose set does, too.
void masks_agreed(SparseRows masks, const int64_t* view, const int64_t* owner, SparseRows sets, int64_t set_count,
                  int32_t* out, int threads);

}  // namespace splatseg
