#include "cpu/photometric.h"

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/scalar_tensor.h>
#include <torch/library.h>

#include <tuple>
#include <vector>

#include "photometric_checks.h"

namespace splatseg {
namespace {

using at::Tensor;

// A band computes 20 rows around it again: rows enough to pay for that.
constexpr int64_t kBand = 48;

template <class T, class Kernel>
void run_bands(Kernel* kernel, const PhotometricJob& job) {
  at::parallel_for(0, job.height, kBand, [&](int64_t begin, int64_t end) {
    std::vector<T> scratch(photometric_scratch(job));
    kernel(job, begin, end, scratch.data());
  });
}

std::tuple<Tensor, Tensor> photometric_cpu(const Tensor& image, const Tensor& target, double ssim_weight, bool with_grad) {
  check_photometric(image, target);
  const Tensor x = image.contiguous(), t = target.contiguous();
  PhotometricJob job;
  job.image = x.const_data_ptr();
  job.target = t.const_data_ptr();
  job.target_is_uint8 = t.scalar_type() == at::kByte;
  job.height = x.size(0);
  job.width = x.size(1);
  job.channels = x.size(2);
  job.ssim_weight = ssim_weight;
  std::vector<double> row_l1(job.height), row_ssim(job.height);
  job.row_l1 = row_l1.data();
  job.row_ssim = row_ssim.data();
  Tensor grad = with_grad ? at::empty(x.sizes(), x.options()) : at::empty({0}, x.options());
  job.grad = with_grad ? grad.mutable_data_ptr() : nullptr;
  if (x.scalar_type() == at::kFloat)
    run_bands<float>(SPLATSEG_PICK(photometric_rows_float), job);
  else
    run_bands<double>(SPLATSEG_PICK(photometric_rows_double), job);
  // Rows are summed in order: the loss does not depend on how they were dealt to threads.
  double l1 = 0, ssim = 0;
  for (int64_t y = 0; y < job.height; y++) {
    l1 += row_l1[y];
    ssim += row_ssim[y];
  }
  const double count = static_cast<double>(x.numel());
  const double loss = (1 - ssim_weight) * (l1 / count) + ssim_weight * (1 - ssim / count);
  return {at::scalar_tensor(loss, x.options()), grad};
}

}  // namespace
}  // namespace splatseg

TORCH_LIBRARY_IMPL(splatseg, CPU, m) {
  m.impl("photometric", splatseg::kernel<splatseg::PhotometricOp>(splatseg::photometric_cpu));
}
