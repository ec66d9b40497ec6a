#include "cpu/binning.h"

#include <omp.h>

#include <algorithm>
#include <cstring>

namespace splatseg {
namespace {

constexpr int kRadixBits = 11;
constexpr int kBuckets = 1 << kRadixBits;

// Contiguous share of 0..n of thread t.
struct Share {
  int64_t begin, end;
  Share(int64_t n, int t, int threads) : begin(n * t / threads), end(n * (t + 1) / threads) {}
};

// Turns counts[thread][bucket] into where each thread's first entry of each bucket goes; returns the total.
uint32_t exclusive_scan(std::vector<uint32_t>& counts, int buckets, int threads, int32_t* starts) {
  uint32_t sum = 0;
  for (int b = 0; b < buckets; b++) {
    if (starts != nullptr) starts[b] = int32_t(sum);
    for (int t = 0; t < threads; t++) {
      uint32_t& count = counts[size_t(t) * buckets + b];
      const uint32_t here = count;
      count = sum;
      sum += here;
    }
  }
  return sum;
}

// One stable pass of a least-significant-digit radix sort on the bits from `shift`.
void radix_pass(const uint64_t* from, uint64_t* to, int64_t n, int shift, int threads) {
  std::vector<uint32_t> counts(size_t(threads) * kBuckets, 0);
#pragma omp parallel num_threads(threads)
  {
    const int t = omp_get_thread_num();
    const Share share(n, t, omp_get_num_threads());
    uint32_t* mine = &counts[size_t(t) * kBuckets];
    for (int64_t i = share.begin; i < share.end; i++) mine[(from[i] >> shift) & (kBuckets - 1)]++;
#pragma omp barrier
#pragma omp single
    exclusive_scan(counts, kBuckets, threads, nullptr);
    for (int64_t i = share.begin; i < share.end; i++) to[mine[(from[i] >> shift) & (kBuckets - 1)]++] = from[i];
  }
}

template <class Visit>
void for_tiles(const TileRect& rect, int columns, Visit visit) {
  for (int y = rect.y0; y <= rect.y1; y++)
    for (int x = rect.x0; x <= rect.x1; x++) visit(y * columns + x);
}

}  // namespace

template <class T>
TileBinner<T>::TileBinner(int64_t n, Splat<T>* splats, const TileRect* rects, TileGrid grid, int threads)
    : n_(n), rects_(rects), grid_(grid), threads_(std::max(1, std::min<int>(threads, int(n / 4096) + 1))) {
  keys_.reset(new uint64_t[size_t(n)]);
  collect(splats);
  sort(splats);
}

template <class T>
void TileBinner<T>::collect(Splat<T>* splats) {
  std::vector<int64_t> drawn(threads_ + 1, 0), pairs(threads_ + 1, 0);
#pragma omp parallel num_threads(threads_)
  {
    const int t = omp_get_thread_num();
    const Share share(n_, t, omp_get_num_threads());
    int64_t my_drawn = 0, my_pairs = 0;
    for (int64_t i = share.begin; i < share.end; i++) {
      const uint32_t count = rects_[i].count();
      my_drawn += count > 0;
      my_pairs += count;
    }
    drawn[t + 1] = my_drawn;
    pairs[t + 1] = my_pairs;
#pragma omp barrier
#pragma omp single
    for (int k = 0; k < threads_; k++) {
      drawn[k + 1] += drawn[k];
      pairs[k + 1] += pairs[k];
    }
    int64_t at = drawn[t], slot = pairs[t];
    for (int64_t i = share.begin; i < share.end; i++) {
      const uint32_t count = rects_[i].count();
      if (count == 0) continue;
      // Depths are positive, so the bits of the float order as the float does.
      const float depth = float(splats[i].depth);
      uint32_t key;
      std::memcpy(&key, &depth, sizeof key);
      splats[i].slot = uint32_t(slot);
      slot += count;
      keys_[at++] = uint64_t(key) << 32 | uint32_t(i);
    }
  }
  drawn_ = drawn[threads_];
  pairs_ = pairs[threads_];
}

template <class T>
void TileBinner<T>::sort(const Splat<T>* splats) {
  if constexpr (sizeof(T) == sizeof(double)) {  // the float keys of collect() would merge distinct depths
    std::stable_sort(keys_.get(), keys_.get() + drawn_, [splats](uint64_t i, uint64_t k) {
      return splats[uint32_t(i)].depth < splats[uint32_t(k)].depth;
    });
  } else {
    std::unique_ptr<uint64_t[]> other(new uint64_t[size_t(drawn_)]);
    for (int shift = 32; shift < 64; shift += kRadixBits) {
      radix_pass(keys_.get(), other.get(), drawn_, shift, threads_);
      keys_.swap(other);
    }
  }
}

template <class T>
void TileBinner<T>::fill(int32_t* offsets, int32_t* ids) const {
  const int tiles = grid_.tiles(), columns = grid_.columns;
  std::vector<uint32_t> counts(size_t(threads_) * tiles, 0);
#pragma omp parallel num_threads(threads_)
  {
    const int t = omp_get_thread_num();
    const Share share(drawn_, t, omp_get_num_threads());
    uint32_t* mine = &counts[size_t(t) * tiles];
    for (int64_t q = share.begin; q < share.end; q++)
      for_tiles(rects_[uint32_t(keys_[q])], columns, [mine](int tile) { mine[tile]++; });
#pragma omp barrier
#pragma omp single
    offsets[tiles] = int32_t(exclusive_scan(counts, tiles, threads_, offsets));
    for (int64_t q = share.begin; q < share.end; q++) {
      const int32_t id = int32_t(uint32_t(keys_[q]));
      for_tiles(rects_[id], columns, [mine, ids, id](int tile) { ids[mine[tile]++] = id; });
    }
  }
}

template class TileBinner<float>;
template class TileBinner<double>;

}  // namespace splatseg
