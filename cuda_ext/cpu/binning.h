// Depth-ordered lists of the Gaussians that touch each 16x16 tile. ATen-free.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "cpu/project.h"

namespace splatseg {

struct TileGrid {
  int columns, rows;
  TileGrid(int width, int height) : columns((width + kTile - 1) / kTile), rows((height + kTile - 1) / kTile) {}
  int tiles() const { return columns * rows; }
};

// Sorts the drawn Gaussians by depth once (stable: ties go by id), then scatters them, in that order, into their tiles.
// The lists are the same for any number of threads.
template <class T>
class TileBinner {
 public:
  // Also writes splats[i].slot. `rects` must stay alive until fill().
  TileBinner(int64_t n, Splat<T>* splats, const TileRect* rects, TileGrid grid, int threads);

  int64_t pairs() const { return pairs_; }

  // offsets (tiles + 1), ids (pairs): the Gaussians of tile t, front to back, are ids[offsets[t] .. offsets[t + 1]).
  void fill(int32_t* offsets, int32_t* ids) const;

 private:
  void collect(Splat<T>* splats);
  void sort(const Splat<T>* splats);

  int64_t n_;
  const TileRect* rects_;
  TileGrid grid_;
  int threads_;
  int64_t drawn_ = 0;
  int64_t pairs_ = 0;
  std::unique_ptr<uint64_t[]> keys_;  // after sort(): low 32 bits are ids, in depth order
};

extern template class TileBinner<float>;
extern template class TileBinner<double>;

}  // namespace splatseg
