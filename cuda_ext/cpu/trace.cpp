#include "cpu/trace.h"

#include <omp.h>

#include <algorithm>
#include <cstring>

namespace splatseg {
namespace {

// Bits of x at the even places, of y at the odd ones; four of each.
uint32_t morton(uint32_t x, uint32_t y) {
  static constexpr uint8_t kSpread[16] = {0, 1, 4, 5, 16, 17, 20, 21, 64, 65, 68, 69, 80, 81, 84, 85};
  return kSpread[x] | uint32_t(kSpread[y]) << 1;
}

}  // namespace

template <class T>
PixelTracer<T>::PixelTracer(const int32_t* pixels, int64_t count, TileGrid grid)
    : pixels_(pixels), count_(count), grid_(grid), tile_rows_(grid.tiles() + 1, 0), rows_(count), offsets_(count + 1, 0) {
  const auto tile_of = [&](int64_t i) { return pixels[2 * i + 1] / kTile * grid.columns + pixels[2 * i] / kTile; };
  for (int64_t i = 0; i < count; i++) tile_rows_[tile_of(i) + 1]++;
  for (int t = 0; t < grid.tiles(); t++) tile_rows_[t + 1] += tile_rows_[t];
  std::vector<int64_t> next(tile_rows_.begin(), tile_rows_.end() - 1);
  for (int64_t i = 0; i < count; i++) {
    const uint64_t code = morton(pixels[2 * i] % kTile, pixels[2 * i + 1] % kTile);
    rows_[next[tile_of(i)]++] = code << 32 | uint64_t(i);
  }
}

template <class T>
void PixelTracer<T>::run(TileLists<T> lists, T min_weight, int threads) {
  const int tiles = grid_.tiles();
  int64_t capacity = 0;
  for (int t = 0; t < tiles; t++)
    if (tile_rows_[t] < tile_rows_[t + 1]) capacity = std::max<int64_t>(capacity, lists.offsets[t + 1] - lists.offsets[t]);
  threads_ = threads;
  places_.resize(tiles);
  arenas_.assign(threads, {});
#pragma omp parallel num_threads(threads)
  {
    const int self = omp_get_thread_num();
    Arena scratch, found;
    scratch.ids.resize(kTracedTogether * capacity);
    scratch.weights.resize(kTracedTogether * capacity);
    // About what a photograph needs; more grows.
    found.ids.reserve(count_ * 32 / threads);
    found.weights.reserve(count_ * 32 / threads);
#pragma omp for schedule(dynamic, 4)
    for (int t = 0; t < tiles; t++) {
      if (tile_rows_[t] == tile_rows_[t + 1]) continue;
      places_[t] = {self, int64_t(found.ids.size())};
      trace_tile(lists, t, min_weight, capacity, scratch, found);
    }
    arenas_[self] = std::move(found);
  }
  for (int64_t i = 0; i < count_; i++) offsets_[i + 1] += offsets_[i];
}

template <class T>
void PixelTracer<T>::trace_tile(TileLists<T> lists, int tile, T min_weight, int64_t capacity, Arena& scratch, Arena& found) {
  const int64_t begin = tile_rows_[tile], end = tile_rows_[tile + 1];
  std::sort(rows_.begin() + begin, rows_.begin() + end);
  int64_t lengths[kTracedTogether];
  TraceLanes<T> job;
  job.splats = lists.splats;
  job.list = lists.ids + lists.offsets[tile];
  job.count = lists.offsets[tile + 1] - lists.offsets[tile];
  job.tile_x = tile % grid_.columns * kTile;
  job.tile_y = tile / grid_.columns * kTile;
  job.min_weight = min_weight;
  job.capacity = capacity;
  job.ids = scratch.ids.data();
  job.weights = scratch.weights.data();
  job.lengths = lengths;
  for (int64_t first = begin; first < end; first += kTracedTogether) {
    job.lanes = int(std::min<int64_t>(kTracedTogether, end - first));
    for (int l = 0; l < job.lanes; l++) {
      const int32_t* pixel = pixels_ + 2 * uint32_t(rows_[first + l]);
      job.column[l] = pixel[0];
      job.row[l] = pixel[1];
    }
    trace_lanes(job);
    for (int l = 0; l < job.lanes; l++) {
      const int32_t* ids = job.ids + l * capacity;
      const T* weights = job.weights + l * capacity;
      found.ids.insert(found.ids.end(), ids, ids + lengths[l]);
      found.weights.insert(found.weights.end(), weights, weights + lengths[l]);
      offsets_[first + l + 1] = lengths[l];
    }
  }
}

template <class T>
void PixelTracer<T>::write(int32_t* pixels, int64_t* order, int64_t* offsets, int32_t* ids, T* weights) const {
  std::copy(offsets_.begin(), offsets_.end(), offsets);
#pragma omp parallel for num_threads(threads_) schedule(dynamic, 16)
  for (int t = 0; t < grid_.tiles(); t++) {
    const int64_t begin = tile_rows_[t], end = tile_rows_[t + 1];
    if (begin == end) continue;
    for (int64_t r = begin; r < end; r++) {
      order[r] = uint32_t(rows_[r]);
      std::memcpy(pixels + 2 * r, pixels_ + 2 * order[r], 2 * sizeof *pixels);
    }
    const Arena& arena = arenas_[places_[t].arena];
    const int64_t from = places_[t].begin, to = offsets_[begin], length = offsets_[end] - to;
    std::copy_n(arena.ids.begin() + from, length, ids + to);
    std::copy_n(arena.weights.begin() + from, length, weights + to);
  }
}

template class PixelTracer<float>;
template class PixelTracer<double>;

}  // namespace splatseg
