// One 16x16 tile as sixteen 4x4 blocks of two 8-lane vectors (rows 0-1 and 2-3 of the block); what the forward and the
// backward walk share, so that both take the same decisions. For cpu/kernels/*.cpp only.
#pragma once

#include "cpu/rasterize.h"
#include "cpu/simd.h"

namespace splatseg::SPLATSEG_ISA {

constexpr int kBlocks = 16, kBlockPixels = 16, kTilePixels = kTile * kTile;
constexpr double kLog2Of255 = 7.994353436858858;

// Pixel p of a tile (block-major) to its column and row in the tile.
SPLATSEG_INLINE int tile_column(int p) { return (p / 16 % 4) * 4 + p % 4; }
SPLATSEG_INLINE int tile_row(int p) { return (p / 64) * 4 + p / 4 % 4; }

template <class T>
struct Tile {
  alignas(64) T transmittance[kTilePixels];
  alignas(64) T floor[kTilePixels];  // least exponent drawn: log2(1/255), or infinity where the pixel is done
  unsigned open;                     // bit b: some pixel of block b is not done
  int x0, y0, columns, rows;         // the part of the tile inside the image

  Tile(int tile, int width, int height) {
    const int grid = (width + kTile - 1) / kTile;
    x0 = tile % grid * kTile;
    y0 = tile / grid * kTile;
    columns = width - x0 < kTile ? width - x0 : kTile;
    rows = height - y0 < kTile ? height - y0 : kTile;
    for (int p = 0; p < kTilePixels; p++) {
      transmittance[p] = T(1);
      floor[p] = tile_column(p) < columns && tile_row(p) < rows ? T(-kLog2Of255) : T(__builtin_inf());
    }
    open = 0;
    for (int k = 0; k < kBlocks; k++) open |= unsigned(k % 4 * 4 < columns && k / 4 * 4 < rows) << k;
  }
};

// A splat as one tile sees it: broadcast, relative to the tile's corner.
template <class T>
struct TileSplat {
  Vec<T> a, b, c, log2_opacity, x, y;
  unsigned blocks;  // bit b: the pixel box touches block b

  __attribute__((always_inline)) TileSplat(const Splat<T>& s, int tile_x, int tile_y)
      : a(splat(s.a)),
        b(splat(s.b)),
        c(splat(s.c)),
        log2_opacity(splat(s.log2_opacity)),
        x(splat(s.x - tile_x)),
        y(splat(s.y - tile_y)) {
    const int x0 = (s.x0 > tile_x ? s.x0 - tile_x : 0) >> 2, x1 = (s.x1 < tile_x + kTile ? s.x1 - tile_x : kTile - 1) >> 2;
    const int y0 = (s.y0 > tile_y ? s.y0 - tile_y : 0) >> 2, y1 = (s.y1 < tile_y + kTile ? s.y1 - tile_y : kTile - 1) >> 2;
    const unsigned columns = (2u << x1) - (1u << x0), rows = (16u << 4 * y1) - (1u << 4 * y0);
    blocks = columns * 0x1111u & rows;
  }
};

// One splat on one block, after the tests that decide which pixels it reaches.
template <class T>
struct BlockHit {
  Vec<T> dx, dy[2], exponent[2];
  Mask<T> drawn[2];
};

// Pixel centers of a block's upper half relative to the tile: columns of the four block columns, rows of the four block rows.
template <class T>
struct BlockCenters {
  alignas(64) T columns[4][kLanes], rows[4][kLanes];
  constexpr BlockCenters() : columns(), rows() {
    for (int b = 0; b < 4; b++) {
      for (int lane = 0; lane < kLanes; lane++) {
        columns[b][lane] = T(b * 4 + lane % 4) + T(0.5);
        rows[b][lane] = T(b * 4 + lane / 4) + T(0.5);
      }
    }
  }
};
template <class T>
constexpr BlockCenters<T> kCenters;

template <class T>
SPLATSEG_INLINE bool reach(const TileSplat<T>& s, const Tile<T>& tile, size_t block, BlockHit<T>& hit) {
  typedef Vec<T> V;
  const T* floor = tile.floor + block * kBlockPixels;
  hit.dx = load(kCenters<T>.columns[block % 4]) - s.x;
  hit.dy[0] = load(kCenters<T>.rows[block / 4]) - s.y;
  hit.dy[1] = hit.dy[0] + T(2);
  for (int h = 0; h < 2; h++) {
    const V dy = hit.dy[h];
    hit.exponent[h] = hit.dx * (s.b * dy + s.a * hit.dx) + (s.c * dy * dy + s.log2_opacity);
    // gsplat skips alpha < 1/255 and, where rounding breaks the conic, sigma < 0.
    hit.drawn[h] = (hit.exponent[h] >= load(floor + h * kLanes)) & (hit.exponent[h] <= s.log2_opacity);
  }
  return any(hit.drawn[0] | hit.drawn[1]);
}

// One splat's blending in half a block.
template <class T>
struct Blend {
  Vec<T> raw_alpha, alpha, before, weight;  // before: transmittance in front of the splat; weight: 0 where not drawn
};

// Closes the pixels of half h that the splat would leave without transmittance: they got their last splat before this one.
template <class T>
SPLATSEG_INLINE void close_pixels(BlockHit<T>& hit, int h, Mask<T> done, T* floor) {
  store(floor, done ? splat(T(__builtin_inf())) : load(floor));
  hit.drawn[h] &= ~done;
}

// Moves the transmittance of a block and closes its finished pixels. True where there were some.
template <class T>
SPLATSEG_INLINE bool blend(BlockHit<T>& hit, Tile<T>& tile, size_t block, Blend<T> out[2]) {
  typedef Vec<T> V;
  T* transmittance = tile.transmittance + block * kBlockPixels;
  V product[2];
  Mask<T> done[2];
  for (int h = 0; h < 2; h++) {
    out[h].raw_alpha = exp2v_near_zero(hit.exponent[h]);
    out[h].alpha = vmin(out[h].raw_alpha, splat(T(0.999)));
    out[h].before = load(transmittance + h * kLanes);
    product[h] = out[h].alpha * out[h].before;
    done[h] = hit.drawn[h] & (out[h].before - product[h] <= splat(T(1e-4)));
  }
  const bool closed = any(done[0] | done[1]);
  if (__builtin_expect(closed, 0)) {
    T* floor = tile.floor + block * kBlockPixels;
    close_pixels(hit, 0, done[0], floor);
    close_pixels(hit, 1, done[1], floor + kLanes);
  }
  for (int h = 0; h < 2; h++) {
    out[h].weight = keep(hit.drawn[h], product[h]);
    store(transmittance + h * kLanes, out[h].before - out[h].weight);
  }
  return closed;
}

// After a block had finished pixels: notes when none is left.
template <class T>
SPLATSEG_INLINE void close_block(Tile<T>& tile, size_t block) {
  const T* floor = tile.floor + block * kBlockPixels;
  const Vec<T> limit = splat(T(1));
  if (any((load(floor) < limit) | (load(floor + kLanes) < limit))) return;
  tile.open &= ~(1u << block);
}

}  // namespace splatseg::SPLATSEG_ISA
