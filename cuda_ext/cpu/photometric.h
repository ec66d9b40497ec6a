// L1 + D-SSIM of two images and its gradient, row by row. Free of ATen.
#pragma once

#include <cstdint>

#include "cpu/dispatch.h"

namespace splatseg {

// SSIM (Wang et al. 2004) with an 11x11 Gaussian window of sigma 1.5, zeros outside the image, range 1, per channel.
// Images are (height, width, channels), interleaved; T is float or double, as the kernel's name says.
struct PhotometricJob {
  const void* image;   // T
  const void* target;  // T, or uint8 standing for value / 255
  bool target_is_uint8;
  int64_t height, width, channels;
  double ssim_weight;
  void* partials;    // (3, height, stride) T, or null where no gradient is wanted
  double* row_l1;    // (height) sums of |image - target|
  double* row_ssim;  // (height) sums of SSIM
  void* grad;        // (height, width, channels) T
};

constexpr int64_t kTaps = 11, kReach = 5;

inline int64_t round_up_8(int64_t x) { return (x + 7) / 8 * 8; }
// Row pitch of all scratch: one interleaved row, padded so that every loop runs on whole vectors.
inline int64_t photometric_stride(const PhotometricJob& job) { return round_up_8(job.width * job.channels); }
// Elements of scratch one call needs: a ring of kTaps rows of 4 moments, and 4 rows with zeros on both sides.
inline int64_t photometric_scratch(const PhotometricJob& job) {
  return 4 * kTaps * photometric_stride(job) + 4 * (photometric_stride(job) + 2 * round_up_8(kReach * job.channels));
}

}  // namespace splatseg

// Rows [begin, end) of row_l1 and row_ssim, and of partials: the derivatives of a pixel's SSIM by its window's mean of x, of
// x^2 + y^2 and of x y. Scratch is zeroed.
SPLATSEG_KERNEL(void, photometric_moments_float, (const PhotometricJob& job, int64_t begin, int64_t end, float* scratch))
SPLATSEG_KERNEL(void, photometric_moments_double, (const PhotometricJob& job, int64_t begin, int64_t end, double* scratch))
// Rows [begin, end) of grad, from all partials.
SPLATSEG_KERNEL(void, photometric_grad_float, (const PhotometricJob& job, int64_t begin, int64_t end, float* scratch))
SPLATSEG_KERNEL(void, photometric_grad_double, (const PhotometricJob& job, int64_t begin, int64_t end, double* scratch))
