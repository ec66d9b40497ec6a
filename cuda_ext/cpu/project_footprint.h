// The EWA footprint of eight Gaussians at once: what the projection and its backward both need (gsplat 1.5.3,
// ProjectionEWA3DGSFused.cu and persp_proj in Utils.cuh). For cpu/kernels/*.cpp only.
#pragma once

#include "cpu/project.h"
#include "cpu/simd.h"

namespace splatseg::SPLATSEG_ISA {

// Eight consecutive entries from `first`; past the end of a short group the last one repeats.
struct Group {
  int64_t first;
  int count;
};

template <class T>
SPLATSEG_INLINE Vec<T> gather(const T* p, int stride, int offset, Group g) {
  const T* at = p + g.first * stride + offset;
  if (g.count == kLanes) return load_strided(at, stride);
  Vec<T> v;
  for (int l = 0; l < kLanes; l++) v[l] = at[(l < g.count ? l : g.count - 1) * stride];
  return v;
}

template <class T>
struct Footprint {
  typedef Vec<T> V;
  V x, y, z, rz;                            // camera space mean, 1 / z
  V slope_x, slope_y;                       // x / z, y / z, clamped to the widened frustum
  Mask<T> inside_x, inside_y;               // not clamped: the gradient passes
  V q[4], inverse_norm;                     // unit quaternion; inverse_norm is 0 for a zero one
  V rotation[9];                            // world_from_gaussian
  V scale[3];
  V row0[3], row1[3];                       // the Jacobian times the camera rotation, 2 x 3
  V xx, xy, yy;                             // image covariance with eps2d
};

template <class T>
SPLATSEG_INLINE void rotate(Footprint<T>& f) {
  typedef Vec<T> V;
  const V w = f.q[0], x = f.q[1], y = f.q[2], z = f.q[3];
  V* r = f.rotation;
  r[0] = T(1) - T(2) * (y * y + z * z);
  r[1] = T(2) * (x * y - w * z);
  r[2] = T(2) * (x * z + w * y);
  r[3] = T(2) * (x * y + w * z);
  r[4] = T(1) - T(2) * (x * x + z * z);
  r[5] = T(2) * (y * z - w * x);
  r[6] = T(2) * (x * z - w * y);
  r[7] = T(2) * (y * z + w * x);
  r[8] = T(1) - T(2) * (x * x + y * y);
}

// Image covariance = U U^T, U = J W R S: the sum of squares keeps it positive where R S S R^T would cancel.
template <class T>
SPLATSEG_INLINE void covariance(const PinholeView<T>& view, Footprint<T>& f) {
  typedef Vec<T> V;
  const T* w = view.cam_from_world;
  const V j00 = view.fx * f.rz, j02 = -view.fx * f.slope_x * f.rz;
  const V j11 = view.fy * f.rz, j12 = -view.fy * f.slope_y * f.rz;
  for (int k = 0; k < 3; k++) {
    f.row0[k] = j00 * w[k] + j02 * w[8 + k];
    f.row1[k] = j11 * w[4 + k] + j12 * w[8 + k];
  }
  f.xx = f.yy = splat(view.eps2d);
  f.xy = splat(T(0));
  for (int k = 0; k < 3; k++) {
    const V* r = f.rotation + k;
    const V u0 = (f.row0[0] * r[0] + f.row0[1] * r[3] + f.row0[2] * r[6]) * f.scale[k];
    const V u1 = (f.row1[0] * r[0] + f.row1[1] * r[3] + f.row1[2] * r[6]) * f.scale[k];
    f.xx += u0 * u0;
    f.xy += u0 * u1;
    f.yy += u1 * u1;
  }
}

template <class T>
SPLATSEG_INLINE Footprint<T> footprint(const PinholeView<T>& view, const GaussianArrays<T>& in, Group g) {
  typedef Vec<T> V;
  Footprint<T> f;
  const T* w = view.cam_from_world;
  const V mx = gather(in.means, 3, 0, g), my = gather(in.means, 3, 1, g), mz = gather(in.means, 3, 2, g);
  f.x = w[0] * mx + w[1] * my + w[2] * mz + w[3];
  f.y = w[4] * mx + w[5] * my + w[6] * mz + w[7];
  f.z = w[8] * mx + w[9] * my + w[10] * mz + w[11];
  f.rz = T(1) / f.z;
  const T margin_x = T(0.15) * view.width / view.fx, margin_y = T(0.15) * view.height / view.fy;
  const V low_x = splat(-(view.cx / view.fx + margin_x)), high_x = splat((view.width - view.cx) / view.fx + margin_x);
  const V low_y = splat(-(view.cy / view.fy + margin_y)), high_y = splat((view.height - view.cy) / view.fy + margin_y);
  const V raw_x = f.x * f.rz, raw_y = f.y * f.rz;
  f.slope_x = vmin(high_x, vmax(low_x, raw_x));
  f.slope_y = vmin(high_y, vmax(low_y, raw_y));
  f.inside_x = (raw_x <= high_x) & (raw_x >= low_x);
  f.inside_y = (raw_y <= high_y) & (raw_y >= low_y);
  V norm2 = splat(T(0));
  for (int k = 0; k < 4; k++) {
    f.q[k] = gather(in.quats, 4, k, g);
    norm2 += f.q[k] * f.q[k];
  }
  f.inverse_norm = keep(norm2 > T(0), T(1) / sqrtv(norm2));
  for (int k = 0; k < 4; k++) f.q[k] *= f.inverse_norm;
  rotate(f);
  for (int k = 0; k < 3; k++) f.scale[k] = gather(in.scales, 3, k, g);
  covariance(view, f);
  return f;
}

}  // namespace splatseg::SPLATSEG_ISA
