// Projection backward: pair gradients of the raster pass to gradients of the Gaussians' parameters (gsplat 1.5.3,
// RasterizeToPixels3DGSBwd.cu for the conic, persp_proj_vjp and quat_scale_to_covar_vjp in Utils.cuh after it).
#include "cpu/project.h"
#include "cpu/project_footprint.h"
#include "cpu/spherical_harmonics.h"

namespace splatseg::SPLATSEG_ISA {
namespace {

constexpr double kLog2E = 1.4426950408889634;

// Summed pair gradients of a group, [PairGrad][lane]; zero for Gaussians that were not drawn.
template <class T>
struct GroupGrads {
  alignas(64) T sum[kPairGrads][kLanes];
  unsigned drawn;
};

template <class T>
SPLATSEG_INLINE GroupGrads<T> sum_pairs(const ProjectBackwardArgs<T>& args, Group g) {
  GroupGrads<T> out;
  memset(out.sum, 0, sizeof out.sum);
  out.drawn = 0;
  for (int l = 0; l < g.count; l++) {
    const uint32_t count = args.rects[g.first + l].count();
    if (count == 0) continue;
    out.drawn |= 1u << l;
    const T* pair = args.pair_grads + size_t(args.splats[g.first + l].slot) * kPairGrads;
    Vec<T> low = load(pair), high = load(pair + kLanes);
    for (uint32_t k = 1; k < count; k++) {
      pair += kPairGrads;
      low += load(pair);
      high += load(pair + kLanes);
    }
    for (int j = 0; j < kLanes; j++) {
      out.sum[j][l] = low[j];
      out.sum[kLanes + j][l] = high[j];
    }
  }
  return out;
}

// Writes v to p[(first + l) * stride + offset] for every lane of the group, zero where not drawn.
template <class T>
SPLATSEG_INLINE void scatter(T* p, int stride, int offset, Group g, unsigned drawn, Vec<T> v) {
  for (int l = 0; l < g.count; l++) p[(g.first + l) * stride + offset] = drawn >> l & 1 ? v[l] : T(0);
}

// Gradient of the rotation matrix to the unit quaternion, then through the normalization.
template <class T>
SPLATSEG_INLINE void quat_backward(const Footprint<T>& f, const Vec<T> v[9], Vec<T> grad[4]) {
  typedef Vec<T> V;
  const V w = f.q[0], x = f.q[1], y = f.q[2], z = f.q[3];
  grad[0] = T(2) * (x * (v[7] - v[5]) + y * (v[2] - v[6]) + z * (v[3] - v[1]));
  grad[1] = T(2) * (T(-2) * x * (v[4] + v[8]) + y * (v[1] + v[3]) + z * (v[2] + v[6]) + w * (v[7] - v[5]));
  grad[2] = T(2) * (x * (v[1] + v[3]) - T(2) * y * (v[0] + v[8]) + z * (v[5] + v[7]) + w * (v[2] - v[6]));
  grad[3] = T(2) * (x * (v[2] + v[6]) + y * (v[5] + v[7]) - T(2) * z * (v[0] + v[4]) + w * (v[3] - v[1]));
  const V along = grad[0] * w + grad[1] * x + grad[2] * y + grad[3] * z;
  for (int k = 0; k < 4; k++) grad[k] = (grad[k] - along * f.q[k]) * f.inverse_norm;
}

template <class T>
struct ChainGrads {
  Vec<T> mean[3], scale[3], quat[4];
};

// To the world mean, scales and quaternion from the gradients of the image covariance, cov = (xx, half of xy's, yy), of the
// projected mean (vx, vy) and of the depth vz.
template <class T>
SPLATSEG_INLINE ChainGrads<T> chain(const PinholeView<T>& view, const Footprint<T>& f, const Vec<T> cov[3], Vec<T> vx,
                                    Vec<T> vy, Vec<T> vz) {
  typedef Vec<T> V;
  ChainGrads<T> out;
  V row0[3] = {}, row1[3] = {}, rotation[9];
  for (int k = 0; k < 3; k++) {
    const V* r = f.rotation + k;
    const V a0 = f.row0[0] * r[0] + f.row0[1] * r[3] + f.row0[2] * r[6];
    const V a1 = f.row1[0] * r[0] + f.row1[1] * r[3] + f.row1[2] * r[6];
    const V s = f.scale[k], v0 = T(2) * s * (cov[0] * a0 + cov[1] * a1), v1 = T(2) * s * (cov[1] * a0 + cov[2] * a1);
    out.scale[k] = v0 * a0 + v1 * a1;
    for (int j = 0; j < 3; j++) {
      row0[j] += s * v0 * r[3 * j];
      row1[j] += s * v1 * r[3 * j];
      rotation[3 * j + k] = s * (v0 * f.row0[j] + v1 * f.row1[j]);
    }
  }
  quat_backward<T>(f, rotation, out.quat);
  const T* w = view.cam_from_world;
  V j00 = {}, j02 = {}, j11 = {}, j12 = {};
  for (int k = 0; k < 3; k++) {
    j00 += row0[k] * w[k];
    j02 += row0[k] * w[8 + k];
    j11 += row1[k] * w[4 + k];
    j12 += row1[k] * w[8 + k];
  }
  const V rz2 = f.rz * f.rz, zero = {};
  V px = view.fx * f.rz * vx, py = view.fy * f.rz * vy;
  V pz = vz - (view.fx * f.x * vx + view.fy * f.y * vy) * rz2 - (view.fx * j00 + view.fy * j11) * rz2;
  // J02 = -fx slope_x / z; the slope itself moves with x and z only inside the widened frustum.
  px += f.inside_x ? -view.fx * rz2 * j02 : zero;
  py += f.inside_y ? -view.fy * rz2 * j12 : zero;
  pz += view.fx * f.slope_x * rz2 * j02 * (f.inside_x ? splat(T(2)) : splat(T(1)));
  pz += view.fy * f.slope_y * rz2 * j12 * (f.inside_y ? splat(T(2)) : splat(T(1)));
  for (int k = 0; k < 3; k++) out.mean[k] = w[k] * px + w[4 + k] * py + w[8 + k] * pz;
  return out;
}

// SH coefficients (written, with zeros above the used degree) and the mean through the view direction (added).
template <class T>
SPLATSEG_INLINE void shade_backward(const ProjectBackwardArgs<T>& args, int64_t i, const T color_grad[3], T mean[3]) {
  const GaussianArrays<T>& in = args.in;
  const Splat<T>& s = args.splats[i];
  T v[3], d[3], unit[3];
  for (int c = 0; c < 3; c++) v[c] = s.color_open >> c & 1 ? color_grad[c] : T(0);
  for (int k = 0; k < 3; k++) d[k] = in.means[3 * i + k] - args.view.position[k];
  const T inverse = T(1) / T(__builtin_sqrt(d[0] * d[0] + d[1] * d[1] + d[2] * d[2]));
  for (int k = 0; k < 3; k++) unit[k] = d[k] * inverse;
  T basis[16], weight[16], direction[3];
  sh_basis(in.sh_degree, unit[0], unit[1], unit[2], basis);
  const int count = (in.sh_degree + 1) * (in.sh_degree + 1);
  const T* sh = in.sh + i * in.sh_stored * 3;
  for (int k = 0; k < count; k++) weight[k] = sh[3 * k] * v[0] + sh[3 * k + 1] * v[1] + sh[3 * k + 2] * v[2];
  sh_basis_gradient(in.sh_degree, unit[0], unit[1], unit[2], weight, direction);
  const T along = direction[0] * unit[0] + direction[1] * unit[1] + direction[2] * unit[2];
  for (int k = 0; k < 3; k++) mean[k] += (direction[k] - along * unit[k]) * inverse;
  if (args.sh == nullptr) return;
  T* out = args.sh + i * in.sh_stored * 3;
  for (int k = 0; k < count; k++)
    for (int c = 0; c < 3; c++) out[3 * k + c] = basis[k] * v[c];
  for (int k = 3 * count; k < 3 * in.sh_stored; k++) out[k] = 0;
}

template <class T>
SPLATSEG_INLINE void write_zeros(const ProjectBackwardArgs<T>& args, Group g) {
  T* const arrays[] = {args.means, args.quats, args.scales, args.opacities, args.means2d, args.absgrad};
  const int strides[] = {3, 4, 3, 1, 2, 2};
  for (int k = 0; k < 6; k++)
    if (arrays[k] != nullptr) memset(arrays[k] + g.first * strides[k], 0, sizeof(T) * g.count * strides[k]);
}

template <class T>
SPLATSEG_INLINE void write_parameters(const ProjectBackwardArgs<T>& args, Group g, const GroupGrads<T>& grads) {
  typedef Vec<T> V;
  const Footprint<T> f = footprint(args.view, args.in, g);
  const V inverse_det = T(1) / (f.xx * f.yy - f.xy * f.xy);
  const V A = f.yy * inverse_det, B = -f.xy * inverse_det, C = f.xx * inverse_det;  // the conic
  const V sx = load(grads.sum[kSigmaX]), sy = load(grads.sum[kSigmaY]);
  const V vx = -(A * sx + B * sy), vy = -(B * sx + C * sy);
  // G_cov = -conic G_conic conic, with the off-diagonal gradient split in two halves.
  const V gA = T(0.5) * load(grads.sum[kSigmaXX]), gB = T(0.5) * load(grads.sum[kSigmaXY]);
  const V gC = T(0.5) * load(grads.sum[kSigmaYY]);
  const V p00 = A * gA + B * gB, p01 = A * gB + B * gC, p10 = B * gA + C * gB, p11 = B * gB + C * gC;
  const V cov[3] = {-(p00 * A + p01 * B), -(p00 * B + p01 * C), -(p10 * B + p11 * C)};
  const ChainGrads<T> out = chain<T>(args.view, f, cov, vx, vy, load(grads.sum[kDepth]));
  for (int k = 0; k < 3; k++) scatter<T>(args.means, 3, k, g, grads.drawn, out.mean[k]);
  for (int k = 0; k < 3; k++) scatter<T>(args.scales, 3, k, g, grads.drawn, out.scale[k]);
  for (int k = 0; k < 4; k++) scatter<T>(args.quats, 4, k, g, grads.drawn, out.quat[k]);
  // sigma's gradient is -opacity exp(-sigma) v_alpha, opacity's is exp(-sigma) v_alpha.
  scatter<T>(args.opacities, 1, 0, g, grads.drawn, -load(grads.sum[kSigma]) / gather(args.in.opacities, 1, 0, g));
  if (args.means2d != nullptr) {
    scatter<T>(args.means2d, 2, 0, g, grads.drawn, vx);
    scatter<T>(args.means2d, 2, 1, g, grads.drawn, vy);
  }
  if (args.absgrad != nullptr) {  // the raster pass multiplied by the conic prescaled by log2(e)
    scatter<T>(args.absgrad, 2, 0, g, grads.drawn, load(grads.sum[kAbsX]) * T(1 / kLog2E));
    scatter<T>(args.absgrad, 2, 1, g, grads.drawn, load(grads.sum[kAbsY]) * T(1 / kLog2E));
  }
}

template <class T>
void splats_backward(const ProjectBackwardArgs<T>& args) {
  const int64_t n = args.in.n, groups = (n + kLanes - 1) / kLanes;
  const int64_t sh_row = int64_t(args.in.sh_stored) * 3;
#pragma omp parallel for schedule(static) num_threads(args.threads)
  for (int64_t k = 0; k < groups; k++) {
    const int64_t first = k * kLanes;
    const Group g{first, int(n - first < kLanes ? n - first : kLanes)};
    const GroupGrads<T> grads = sum_pairs(args, g);
    if (grads.drawn == 0) {
      write_zeros(args, g);
    } else {
      write_parameters(args, g, grads);
    }
    if (args.in.sh == nullptr) continue;
    for (int l = 0; l < g.count; l++) {
      const int64_t i = first + l;
      if (grads.drawn >> l & 1) {
        const T color_grad[3] = {grads.sum[kRed][l], grads.sum[kGreen][l], grads.sum[kBlue][l]};
        shade_backward(args, i, color_grad, args.means + 3 * i);
      } else if (args.sh != nullptr) {
        memset(args.sh + i * sh_row, 0, sizeof(T) * sh_row);
      }
    }
  }
}

}  // namespace

void project_backward_f32(const ProjectBackwardArgs<float>& args) { splats_backward(args); }
void project_backward_f64(const ProjectBackwardArgs<double>& args) { splats_backward(args); }

}  // namespace splatseg::SPLATSEG_ISA
