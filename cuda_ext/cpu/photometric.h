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
  double* row_l1;    // (height) sums of |image - target|
  double* row_ssim;  // (height) sums of SSIM
  void* grad;        // (height, width, channels) T, or null where no gradient is wanted
};

constexpr int64_t kTaps = 11, kReach = 5;

inline int64_t round_up_8(int64_t x) { return (x + 7) / 8 * 8; }
// Row pitch of all scratch: one interleaved row, padded so that every loop runs on whole vectors.
inline int64_t photometric_stride(const PhotometricJob& job) { return round_up_8(job.width * job.channels); }
// Elements of zeroed scratch that one call needs: rings of kTaps rows of 4 moments and 3 derivatives, a row of results, and
// 4 rows with zeros on both sides.
inline int64_t photometric_scratch(const PhotometricJob& job) {
  return (7 * kTaps + 5) * photometric_stride(job) + 8 * round_up_8(kReach * job.channels);
}

}  // namespace splatseg

// Rows [begin, end) of row_l1, row_ssim and grad. What the rows around the band contribute is computed again, so that
// nothing but the outputs leaves the cache.
SPLATSEG_KERNEL(void, photometric_rows_float, (const PhotometricJob& job, int64_t begin, int64_t end, float* scratch))
SPLATSEG_KERNEL(void, photometric_rows_double, (const PhotometricJob& job, int64_t begin, int64_t end, double* scratch))
