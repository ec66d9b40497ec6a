// Blending weights of chosen pixels, from the tile lists that rasterize walks. ATen-free.
#pragma once

#include <cstdint>
#include <vector>

#include "cpu/binning.h"
#include "cpu/project.h"

namespace splatseg {

constexpr int kTracedTogether = 8;

// Up to eight pixels of one tile, walked together, one a vector lane.
template <class T>
struct TraceLanes {
  const Splat<T>* splats;
  const int32_t* list;  // the tile's Gaussians, front to back
  int64_t count;
  int tile_x, tile_y;  // the tile's corner, pixels
  int lanes;
  int column[kTracedTogether], row[kTracedTogether];  // in the image
  T min_weight;
  int64_t capacity;  // of each lane below: at least count
  int32_t* ids;      // (kTracedTogether, capacity)
  T* weights;        // (kTracedTogether, capacity)
  int64_t* lengths;  // (kTracedTogether)
};

template <class T>
struct TileLists {
  const Splat<T>* splats;
  const int32_t* offsets;  // (tiles + 1)
  const int32_t* ids;
};

// CSR rows of pixels, sorted by tile; within a tile along a Morton curve (so that lanes are near each other), then by input
// index. The result is the same for any number of threads.
template <class T>
class PixelTracer {
 public:
  // pixels: (count, 2) [column, row] inside the image; must stay alive.
  PixelTracer(const int32_t* pixels, int64_t count, TileGrid grid);

  void run(TileLists<T> lists, T min_weight, int threads);
  int64_t entries() const { return offsets_.back(); }
  // pixels (count, 2), order (count), offsets (count + 1), ids and weights (entries()).
  void write(int32_t* pixels, int64_t* order, int64_t* offsets, int32_t* ids, T* weights) const;

 private:
  // Rows found by one thread, tile after tile.
  struct Arena {
    std::vector<int32_t> ids;
    std::vector<T> weights;
  };
  // Where the rows of a tile lie.
  struct Place {
    int arena;
    int64_t begin;
  };

  void trace_tile(TileLists<T> lists, int tile, T min_weight, int64_t capacity, Arena& scratch, Arena& found);

  const int32_t* pixels_;
  int64_t count_;
  TileGrid grid_;
  int threads_ = 1;
  std::vector<int64_t> tile_rows_;  // (tiles + 1) rows of each tile
  std::vector<uint64_t> rows_;      // (count) Morton code in the tile << 32 | input index
  std::vector<int64_t> offsets_;    // (count + 1); before run() ends: lengths, shifted by one
  std::vector<Place> places_;       // (tiles)
  std::vector<Arena> arenas_;
};

extern template class PixelTracer<float>;
extern template class PixelTracer<double>;

}  // namespace splatseg

SPLATSEG_KERNEL(void, trace_lanes_f32, (const TraceLanes<float>& job))
SPLATSEG_KERNEL(void, trace_lanes_f64, (const TraceLanes<double>& job))

namespace splatseg {
inline void trace_lanes(const TraceLanes<float>& job) { SPLATSEG_PICK(trace_lanes_f32)(job); }
inline void trace_lanes(const TraceLanes<double>& job) { SPLATSEG_PICK(trace_lanes_f64)(job); }
}  // namespace splatseg
