// Projection forward: Gaussians to splats, their tiles, gsplat's radii, and colors by spherical harmonics.
#include "cpu/project.h"

#include "cpu/project_footprint.h"
#include "cpu/spherical_harmonics.h"

namespace splatseg::SPLATSEG_ISA {
namespace {

constexpr double kLog2E = 1.4426950408889634, kLog2Of255 = 7.994353436858858;

template <class T>
SPLATSEG_INLINE Mask<T> non_finite(Vec<T> x) {
  return x * T(0) != T(0);
}

template <class T>
SPLATSEG_INLINE int16_t pixel(T x, int low, int high) {
  return int16_t(x < T(low) ? low : x > T(high) ? high : int(x));
}

// Color of Gaussian i from the camera's direction; returns whether it is finite.
template <class T>
SPLATSEG_INLINE bool shade(const PinholeView<T>& view, const GaussianArrays<T>& in, int64_t i, Splat<T>& out) {
  const T x = in.means[3 * i] - view.position[0], y = in.means[3 * i + 1] - view.position[1];
  const T z = in.means[3 * i + 2] - view.position[2];
  const T inverse = T(1) / T(__builtin_sqrt(x * x + y * y + z * z));
  T basis[16];
  sh_basis(in.sh_degree, x * inverse, y * inverse, z * inverse, basis);
  const int count = (in.sh_degree + 1) * (in.sh_degree + 1);
  const T* sh = in.sh + i * in.sh_stored * 3;
  T color[3] = {T(0.5), T(0.5), T(0.5)};
  for (int k = 0; k < count; k++)
    for (int c = 0; c < 3; c++) color[c] += basis[k] * sh[3 * k + c];
  out.color_open = 0;
  for (int c = 0; c < 3; c++) {
    out.color_open |= unsigned(color[c] >= T(0)) << c;
    out.color[c] = color[c] > T(0) ? color[c] : T(0);
  }
  return (color[0] + color[1] + color[2]) * T(0) == T(0);
}

// What one group of eight hands to the scalar writer of its drawn lanes.
template <class T>
struct Projected {
  alignas(64) T x[kLanes], y[kLanes], a[kLanes], b[kLanes], c[kLanes], log2_opacity[kLanes], depth[kLanes];
  alignas(64) T half_x[kLanes], half_y[kLanes];
  unsigned drawn;
  unsigned bad;
};

template <class T>
SPLATSEG_INLINE Projected<T> project_group(const ProjectArgs<T>& args, Group g) {
  typedef Vec<T> V;
  const PinholeView<T>& view = args.view;
  const Footprint<T> f = footprint(view, args.in, g);
  const V opacity = gather(args.in.opacities, 1, 0, g);
  V x = view.fx * (f.x * f.rz) + view.cx, y = view.fy * (f.y * f.rz) + view.cy;
  Projected<T> out;
  out.bad = 0;
  if (args.in.means2d_offset != nullptr) {
    const V dx = gather(args.in.means2d_offset, 2, 0, g), dy = gather(args.in.means2d_offset, 2, 1, g);
    if (any(non_finite<T>(dx + dy))) out.bad |= kOffset;
    x += dx;
    y += dy;
  }
  const V det = f.xx * f.yy - f.xy * f.xy, inverse_det = T(1) / det;
  const V log2_opacity = log2v(opacity);
  // Squared extent of alpha >= 1/255 in standard deviations; gsplat also caps it at 3.33^2 (never reached for opacity <= 1).
  const V extent2 = vmin(T(2 / kLog2E) * (log2_opacity + T(kLog2Of255)), splat(T(3.33 * 3.33)));
  const V half_x = sqrtv(extent2 * f.xx), half_y = sqrtv(extent2 * f.yy);
  const Mask<T> drawn = (f.z >= view.near_plane) & (f.z <= view.far_plane) & (det > T(0)) & (opacity >= T(1.f / 255.f)) &
                        ((half_x > T(0)) | (half_y > T(0)));
  if (any(non_finite<T>(f.x + f.y + f.z))) out.bad |= kMeans;
  if (any(non_finite<T>(f.q[0] + f.q[1] + f.q[2] + f.q[3]))) out.bad |= kQuats;
  if (any(non_finite<T>(f.scale[0] + f.scale[1] + f.scale[2]))) out.bad |= kScales;
  if (any(non_finite<T>(opacity))) out.bad |= kOpacities;
  out.drawn = bits(drawn) & ((1u << g.count) - 1);
  store(out.x, x);
  store(out.y, y);
  store(out.a, T(-0.5 * kLog2E) * f.yy * inverse_det);
  store(out.b, T(kLog2E) * f.xy * inverse_det);
  store(out.c, T(-0.5 * kLog2E) * f.xx * inverse_det);
  store(out.log2_opacity, log2_opacity);
  store(out.depth, f.z);
  store(out.half_x, half_x);
  store(out.half_y, half_y);
  return out;
}

// Writes lane l as Gaussian i; returns NonFinite bits.
template <class T>
SPLATSEG_INLINE unsigned write_splat(const ProjectArgs<T>& args, const Projected<T>& p, int l, int64_t i) {
  const int width = args.view.width, height = args.view.height;
  const T x = p.x[l], y = p.y[l];
  const T radius_x = T(__builtin_ceil(p.half_x[l])), radius_y = T(__builtin_ceil(p.half_y[l]));
  if (!(x + radius_x > 0 && x - radius_x < width && y + radius_y > 0 && y - radius_y < height)) return 0;
  args.radii[2 * i] = int32_t(radius_x < T(1e9) ? radius_x : T(1e9));
  args.radii[2 * i + 1] = int32_t(radius_y < T(1e9) ? radius_y : T(1e9));
  // Wider than exact by what rounding in x and half_x may take; alpha is tested per pixel anyway.
  const T half_x = p.half_x[l] * T(1.0001) + T(1e-3), half_y = p.half_y[l] * T(1.0001) + T(1e-3);
  Splat<T>& s = args.splats[i];
  s.x0 = pixel(T(__builtin_ceil(x - half_x - T(0.5))), 0, width);
  s.x1 = pixel(T(__builtin_floor(x + half_x - T(0.5))), -1, width - 1);
  s.y0 = pixel(T(__builtin_ceil(y - half_y - T(0.5))), 0, height);
  s.y1 = pixel(T(__builtin_floor(y + half_y - T(0.5))), -1, height - 1);
  if (s.x0 > s.x1 || s.y0 > s.y1) return 0;
  args.rects[i] = TileRect{uint16_t(s.x0 / kTile), uint16_t(s.x1 / kTile), uint16_t(s.y0 / kTile), uint16_t(s.y1 / kTile)};
  s.x = x;
  s.y = y;
  s.a = p.a[l];
  s.b = p.b[l];
  s.c = p.c[l];
  s.log2_opacity = p.log2_opacity[l];
  s.depth = p.depth[l];
  if (args.in.sh == nullptr) return 0;
  return shade(args.view, args.in, i, s) ? 0 : kSh;
}

template <class T>
unsigned project_splats(const ProjectArgs<T>& args) {
  const int64_t n = args.in.n, groups = (n + kLanes - 1) / kLanes;
  unsigned bad = 0;
#pragma omp parallel for schedule(static) num_threads(args.threads) reduction(| : bad)
  for (int64_t k = 0; k < groups; k++) {
    const int64_t first = k * kLanes;
    const Group g{first, int(n - first < kLanes ? n - first : kLanes)};
    memset(static_cast<void*>(args.splats + first), 0, sizeof(Splat<T>) * g.count);  // outputs hold no stray bytes
    for (int l = 0; l < g.count; l++) {
      args.rects[first + l] = TileRect{1, 0, 1, 0};
      args.radii[2 * (first + l)] = args.radii[2 * (first + l) + 1] = 0;
    }
    const Projected<T> p = project_group(args, g);
    bad |= p.bad;
    for (unsigned rest = p.drawn; rest != 0; rest &= rest - 1) {
      const int l = __builtin_ctz(rest);
      bad |= write_splat(args, p, l, first + l);
    }
  }
  return bad;
}

}  // namespace

unsigned project_f32(const ProjectArgs<float>& args) { return project_splats(args); }
unsigned project_f64(const ProjectArgs<double>& args) { return project_splats(args); }

}  // namespace splatseg::SPLATSEG_ISA
