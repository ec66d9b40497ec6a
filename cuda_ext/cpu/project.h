// Projection of 3D Gaussians to image-plane splats (EWA, as gsplat 1.5.3), forward and backward. ATen-free.
// The tile walkers (rasterize, trace) read the Splat records that project() writes; binning.h sorts them into tiles.
#pragma once

#include <cstdint>

#include "cpu/dispatch.h"

namespace splatseg {

constexpr int kTile = 16;  // pixels a tile side

template <class T>
struct PinholeView {
  T cam_from_world[12];  // rows of the 3x4 transform
  T fx, fy, cx, cy;
  T position[3];  // camera center, world units
  T eps2d;        // added to the diagonal of the projected covariance, pixels^2
  T near_plane, far_plane;
  int width, height;
};

// One Gaussian seen from the camera: what a pixel needs, in one cache line (float).
// alpha(px, py) = min(0.999, 2^(log2_opacity + a dx^2 + b dx dy + c dy^2)), dx = px - x, dy = py - y, at pixel centers.
template <class T>
struct alignas(64) Splat {
  T x, y;                  // projected mean, pixels
  T a, b, c;               // -log2(e) * (conic_xx / 2, conic_xy, conic_yy / 2)
  T log2_opacity;
  int16_t x0, x1, y0, y1;  // pixels (inclusive) outside of which alpha < 1/255, clipped to the image; none: x1 < x0
  T color[3];              // max(SH + 0.5, 0); left alone where no SH are given
  T depth;                 // camera z
  uint32_t slot;           // index of its first (Gaussian, tile) pair: pairs are numbered by Gaussian, then tile row-major
  uint32_t color_open;     // bit c: channel c is not clamped, its gradient passes
};

// Tiles (inclusive) that a splat's pixel box touches; none: x1 < x0.
struct TileRect {
  uint16_t x0, x1, y0, y1;
  int columns() const { return x1 - x0 + 1; }
  uint32_t count() const { return x1 < x0 ? 0u : uint32_t(columns()) * uint32_t(y1 - y0 + 1); }
};

template <class T>
struct GaussianArrays {
  int64_t n;
  const T* means;           // (n, 3)
  const T* quats;           // (n, 4) wxyz, any length; zero length is the identity
  const T* scales;          // (n, 3)
  const T* opacities;       // (n,)
  const T* sh;              // (n, sh_stored, 3), or null: no colors wanted
  const T* means2d_offset;  // (n, 2) added to the projected means, or null
  int sh_stored;
  int sh_degree;            // degree used, (degree + 1)^2 <= sh_stored
};

enum NonFinite : unsigned { kMeans = 1, kQuats = 2, kScales = 4, kOpacities = 8, kSh = 16, kOffset = 32 };

template <class T>
struct ProjectArgs {
  PinholeView<T> view;
  GaussianArrays<T> in;
  Splat<T>* splats;  // (n,) zero where not drawn
  TileRect* rects;   // (n,) written for all
  int32_t* radii;    // (n, 2) gsplat's opacity-aware extent, 0 where not drawn
  int threads;
};

// Gradients of the raster pass by (Gaussian, tile) pair, kPairGrads scalars each, in this order.
enum PairGrad { kSigma, kSigmaX, kSigmaY, kSigmaXX, kSigmaXY, kSigmaYY, kRed, kGreen, kBlue, kDepth, kAbsX, kAbsY };
constexpr int kPairGrads = 16;  // 12 used; a cache line in float

template <class T>
struct ProjectBackwardArgs {
  PinholeView<T> view;
  GaussianArrays<T> in;
  const Splat<T>* splats;
  const TileRect* rects;
  const T* pair_grads;  // (pairs, kPairGrads)
  T* means;             // gradients, every entry written; sh, means2d and absgrad may be null: not wanted
  T* quats;
  T* scales;
  T* opacities;
  T* sh;
  T* means2d;
  T* absgrad;
  int threads;
};

}  // namespace splatseg

// Projects all Gaussians. Returns the NonFinite bits of the inputs in which it met a NaN or an infinity (SH: of drawn ones).
SPLATSEG_KERNEL(unsigned, project_f32, (const ProjectArgs<float>& args))
SPLATSEG_KERNEL(unsigned, project_f64, (const ProjectArgs<double>& args))
// Sums the pair gradients of each Gaussian in tile order and takes them through color and projection to its parameters.
SPLATSEG_KERNEL(void, project_backward_f32, (const ProjectBackwardArgs<float>& args))
SPLATSEG_KERNEL(void, project_backward_f64, (const ProjectBackwardArgs<double>& args))

namespace splatseg {
inline unsigned project(const ProjectArgs<float>& args) { return SPLATSEG_PICK(project_f32)(args); }
inline unsigned project(const ProjectArgs<double>& args) { return SPLATSEG_PICK(project_f64)(args); }
inline void project_backward(const ProjectBackwardArgs<float>& args) { SPLATSEG_PICK(project_backward_f32)(args); }
inline void project_backward(const ProjectBackwardArgs<double>& args) { SPLATSEG_PICK(project_backward_f64)(args); }
}  // namespace splatseg
