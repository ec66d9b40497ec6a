// Mirrors splatseg/ops/reference/photometric.py. SSIM needs the two variances only as a sum, so four blurs do: of x, y,
// x^2 + y^2 and x y. Rows stay interleaved: the horizontal taps are `channels` apart, nothing is transposed.
#include "cpu/photometric.h"

#include "cpu/simd.h"

namespace splatseg::SPLATSEG_ISA {
namespace {

// exp(-(k - 5)^2 / (2 * 1.5^2)), normalized to sum 1.
constexpr double kWindow[kTaps] = {
    0.00102838008447911, 0.007598758135239185, 0.03600077212843083,  0.10936068950970002,
    0.2130055377112537,  0.26601172486179436,  0.2130055377112537,   0.10936068950970002,
    0.03600077212843083, 0.007598758135239185, 0.00102838008447911};
constexpr double kC1 = 0.01 * 0.01, kC2 = 0.03 * 0.03;

template <class T>
SPLATSEG_INLINE Vec<T> vabs(Vec<T> x) {
  return x < 0 ? -x : x;
}

// Row y of the image (x) and the target (t); elements from width * channels on stay zero.
template <class T>
void load_row(const PhotometricJob& job, int64_t y, T* x, T* t) {
  const int64_t used = job.width * job.channels;
  memcpy(x, (const T*)job.image + y * used, used * sizeof(T));
  if (!job.target_is_uint8) {
    memcpy(t, (const T*)job.target + y * used, used * sizeof(T));
    return;
  }
  const uint8_t* bytes = (const uint8_t*)job.target + y * used;
  for (int64_t i = 0; i < used; i++) t[i] = (T)bytes[i] * ((T)1 / 255);
}

// The four moments of row y, or zeros outside the image; `slot` is 4 rows of `stride`.
template <class T>
void fill_slot(const PhotometricJob& job, int64_t y, int64_t stride, T* slot) {
  if (y < 0 || y >= job.height) {
    memset(slot, 0, 4 * stride * sizeof(T));
    return;
  }
  T *x = slot, *t = slot + stride, *squares = slot + 2 * stride, *product = slot + 3 * stride;
  load_row(job, y, x, t);
  for (int64_t i = 0; i < stride; i++) {
    squares[i] = x[i] * x[i] + t[i] * t[i];
    product[i] = x[i] * t[i];
  }
}

// out[q] + i = sum over taps of window[tap] * rows[tap][q * pitch + i], for i < stride.
template <class T, int Q>
SPLATSEG_INLINE void blur_columns(const T* const* rows, int64_t pitch, int64_t stride, T* const* out) {
  for (int64_t i = 0; i < stride; i += kLanes) {
    Vec<T> sum[Q] = {};
    for (int k = 0; k < kTaps; k++)
      for (int q = 0; q < Q; q++) sum[q] += splat((T)kWindow[k]) * load(rows[k] + q * pitch + i);
    for (int q = 0; q < Q; q++) store(out[q] + i, sum[q]);
  }
}

// Blur along the row at elements i..i+7; `row` has zeros for kReach * channels elements on both sides.
template <class T, int Q>
SPLATSEG_INLINE void blur_along(T* const* row, int64_t i, int64_t channels, Vec<T>* sum) {
  for (int q = 0; q < Q; q++) sum[q] = Vec<T>{};
  for (int k = 0; k < kTaps; k++)
    for (int q = 0; q < Q; q++) sum[q] += splat((T)kWindow[k]) * load(row[q] + i + (k - kReach) * channels);
}

// SSIM and its derivatives by the window means (mean of x; of x^2 + y^2; of x y); `m` are the four means.
template <class T>
SPLATSEG_INLINE Vec<T> ssim_of(const Vec<T>* m, Vec<T>* derivative) {
  const Vec<T> mean_x = m[0], mean_y = m[1], both = mean_x * mean_y, squares = mean_x * mean_x + mean_y * mean_y;
  const Vec<T> a1 = both * (T)2 + (T)kC1, a2 = (m[3] - both) * (T)2 + (T)kC2;
  const Vec<T> b1 = squares + (T)kC1, b2 = (m[2] - squares) + (T)kC2;
  const Vec<T> inverse = splat((T)1) / (b1 * b2);
  const Vec<T> ssim = a1 * a2 * inverse;
  const Vec<T> by_squares = -ssim * b1 * inverse;
  derivative[0] = (mean_y * (a2 - a1) * inverse - mean_x * (ssim * b2 * inverse + by_squares)) * (T)2;
  derivative[1] = by_squares;
  derivative[2] = a1 * inverse * (T)2;
  return ssim;
}

// 1 in the lanes of elements i..i+7 that belong to the row, 0 in those of its padding.
template <class T>
SPLATSEG_INLINE Vec<T> row_lanes(int64_t i, int64_t used) {
  Vec<T> lanes = {};
  for (int l = 0; l < kLanes; l++) lanes[l] = i + l < used;
  return lanes;
}

// What one band of rows needs beside the job.
template <class T>
struct Band {
  const PhotometricJob& job;
  int64_t stride, used;  // row pitch; elements of a row that are the image's
  T* moments;            // ring of kTaps rows of 4
  T* partials;           // ring of kTaps rows of 3: derivatives of SSIM by the window means
  T* blurred[4];         // rows with zeros on both sides
  T* result;

  __attribute__((always_inline)) Band(const PhotometricJob& job, T* scratch)
      : job(job), stride(photometric_stride(job)), used(job.width * job.channels) {
    const int64_t pad = round_up_8(kReach * job.channels);
    moments = scratch;
    partials = moments + 4 * kTaps * stride;
    result = partials + 3 * kTaps * stride;
    for (int q = 0; q < 4; q++) blurred[q] = result + stride + q * (stride + 2 * pad) + pad;
  }
  T* moment_row(int64_t y) const { return moments + (y + 2 * kTaps) % kTaps * 4 * stride; }
  T* partial_row(int64_t y) const { return partials + (y + 2 * kTaps) % kTaps * 3 * stride; }
};

// SSIM of row y from the moments around it, its derivatives into the ring. `count`: the row's sums are this band's.
template <class T>
void compare_row(const Band<T>& band, int64_t y, bool count) {
  const PhotometricJob& job = band.job;
  T* partial = band.partial_row(y);
  if (y < 0 || y >= job.height) {
    memset(partial, 0, 3 * band.stride * sizeof(T));
    return;
  }
  const T* rows[kTaps];
  for (int k = 0; k < kTaps; k++) rows[k] = band.moment_row(y + k - kReach);
  blur_columns<T, 4>(rows, band.stride, band.stride, band.blurred);
  const T *x = band.moment_row(y), *t = x + band.stride;
  Vec<T> l1 = {}, similarity = {};
  for (int64_t i = 0; i < band.stride; i += kLanes) {
    Vec<T> mean[4], derivative[3];
    blur_along<T, 4>(band.blurred, i, job.channels, mean);
    const Vec<T> ssim = ssim_of<T>(mean, derivative);
    const Vec<T> lanes = i + kLanes <= band.used ? splat((T)1) : row_lanes<T>(i, band.used);
    l1 += vabs<T>(load(x + i) - load(t + i));
    similarity += ssim * lanes;
    for (int q = 0; q < 3; q++) store(partial + q * band.stride + i, derivative[q] * lanes);
  }
  if (!count) return;
  job.row_l1[y] = hsum(l1);
  job.row_ssim[y] = hsum(similarity);
}

// d loss / d x_j = sum_i window(i - j) (dS_i/dmean + 2 x_j dS_i/dsquares + y_j dS_i/dproduct): the window is even, so the
// sums are blurs of the derivatives.
template <class T>
void gradient_row(const Band<T>& band, int64_t y) {
  const PhotometricJob& job = band.job;
  const T scale = (T)(1.0 / (double)(band.used * job.height));
  const T l1_scale = (T)(1 - job.ssim_weight) * scale, ssim_scale = (T)job.ssim_weight * scale;
  const T* rows[kTaps];
  for (int k = 0; k < kTaps; k++) rows[k] = band.partial_row(y + k - kReach);
  blur_columns<T, 3>(rows, band.stride, band.stride, band.blurred);
  const T *x = band.moment_row(y), *t = x + band.stride;
  for (int64_t i = 0; i < band.stride; i += kLanes) {
    Vec<T> sum[3];
    blur_along<T, 3>(band.blurred, i, job.channels, sum);
    const Vec<T> xi = load(x + i), ti = load(t + i);
    const Vec<T> sign = xi > ti ? splat((T)1) : (xi < ti ? splat((T)-1) : splat((T)0));
    store(band.result + i, sign * l1_scale - (sum[0] + xi * (T)2 * sum[1] + ti * sum[2]) * ssim_scale);
  }
  memcpy((T*)job.grad + y * band.used, band.result, band.used * sizeof(T));
}

// One pass down the band: moments run kReach rows ahead of the comparison, which runs kReach rows ahead of the gradient.
template <class T>
void run_band(const PhotometricJob& job, int64_t begin, int64_t end, T* scratch) {
  const Band<T> band(job, scratch);
  const int64_t margin = job.grad ? kReach : 0;
  for (int64_t y = begin - margin - kReach; y < begin - margin + kReach; y++)
    fill_slot(job, y, band.stride, band.moment_row(y));
  for (int64_t y = begin - margin; y < end + margin; y++) {
    fill_slot(job, y + kReach, band.stride, band.moment_row(y + kReach));
    compare_row(band, y, y >= begin && y < end);
    if (job.grad && y - kReach >= begin) gradient_row(band, y - kReach);
  }
}

}  // namespace

void photometric_rows_float(const PhotometricJob& job, int64_t begin, int64_t end, float* scratch) {
  run_band<float>(job, begin, end, scratch);
}
void photometric_rows_double(const PhotometricJob& job, int64_t begin, int64_t end, double* scratch) {
  run_band<double>(job, begin, end, scratch);
}

}  // namespace splatseg::SPLATSEG_ISA
