// Real spherical harmonics of degree 0..3 and their gradient (Sloan, "Efficient Spherical Harmonic Evaluation", JCGT 2013;
// signs and order as gsplat and INRIA). For cpu/kernels/*.cpp only.
#pragma once

#include "cpu/simd.h"

namespace splatseg::SPLATSEG_ISA {

// basis[(degree + 1)^2] at the unit direction (x, y, z).
template <class T>
SPLATSEG_INLINE void sh_basis(int degree, T x, T y, T z, T* basis) {
  basis[0] = T(0.2820947917738781);
  if (degree < 1) return;
  const T c1 = T(0.48860251190292);
  basis[1] = -c1 * y;
  basis[2] = c1 * z;
  basis[3] = -c1 * x;
  if (degree < 2) return;
  const T c2 = T(1.092548430592079), z2 = z * z, fc1 = x * x - y * y, fs1 = 2 * x * y;
  basis[4] = T(0.5462742152960395) * fs1;
  basis[5] = -c2 * y * z;
  basis[6] = T(0.9461746957575601) * z2 - T(0.3153915652525201);
  basis[7] = -c2 * x * z;
  basis[8] = T(0.5462742152960395) * fc1;
  if (degree < 3) return;
  const T fc2 = x * fc1 - y * fs1, fs2 = x * fs1 + y * fc1;
  const T ring = T(0.4570457994644658) - T(2.285228997322329) * z2, c3 = T(0.5900435899266435);
  basis[9] = -c3 * fs2;
  basis[10] = T(1.445305721320277) * z * fs1;
  basis[11] = ring * y;
  basis[12] = z * (T(1.865881662950577) * z2 - T(1.119528997770346));
  basis[13] = ring * x;
  basis[14] = T(1.445305721320277) * z * fc1;
  basis[15] = -c3 * fc2;
}

// gradient = sum over k of weight[k] d basis[k] / d(x, y, z).
template <class T>
SPLATSEG_INLINE void sh_basis_gradient(int degree, T x, T y, T z, const T* weight, T gradient[3]) {
  gradient[0] = gradient[1] = gradient[2] = 0;
  if (degree < 1) return;
  const T c1 = T(0.48860251190292);
  T gx = -c1 * weight[3], gy = -c1 * weight[1], gz = c1 * weight[2];
  if (degree >= 2) {
    const T c2 = T(1.092548430592079), c8 = T(1.092548430592079);  // c8 = 2 * 0.5462742152960395
    gx += c8 * (y * weight[4] + x * weight[8]) - c2 * z * weight[7];
    gy += c8 * (x * weight[4] - y * weight[8]) - c2 * z * weight[5];
    gz += T(1.8923493915151202) * z * weight[6] - c2 * (y * weight[5] + x * weight[7]);
  }
  if (degree >= 3) {
    const T z2 = z * z, fc1 = x * x - y * y, fs1 = 2 * x * y;
    const T ring = T(0.4570457994644658) - T(2.285228997322329) * z2, ring_z = T(-4.570457994644658) * z;
    const T c3 = T(1.7701307697799305);  // 3 * 0.5900435899266435; d fc2 = 3 (fc1, -fs1), d fs2 = 3 (fs1, fc1)
    const T c4 = T(1.445305721320277), c5 = T(2.890611442640554) * z;
    gx += -c3 * (fs1 * weight[9] + fc1 * weight[15]) + c5 * (y * weight[10] + x * weight[14]) + ring * weight[13];
    gy += -c3 * (fc1 * weight[9] - fs1 * weight[15]) + c5 * (x * weight[10] - y * weight[14]) + ring * weight[11];
    gz += c4 * (fs1 * weight[10] + fc1 * weight[14]) + ring_z * (y * weight[11] + x * weight[13]) +
          (T(5.597644988851731) * z2 - T(1.119528997770346)) * weight[12];
  }
  gradient[0] = gx;
  gradient[1] = gy;
  gradient[2] = gz;
}

}  // namespace splatseg::SPLATSEG_ISA
