// The CUDA kernels of the photometric loss, on the host emulator, behind C functions.
#include "cuda/photometric_kernels.cuh"

using namespace splatseg::cuda;

namespace {

// Scratch is NaN at first, so that what a kernel reads before it is written shows.
template <class T>
void solve(const T* image, const void* target, const int* sizes, double ssim_weight, T* loss, T* grad) {
  PhotometricTask<T> t{};
  t.height = sizes[0];
  t.width = sizes[1];
  t.channels = sizes[2];
  t.target_is_uint8 = sizes[3] != 0;
  t.ssim_weight = ssim_weight;
  t.image = image;
  t.target = target;
  t.loss = loss;
  t.grad = grad;
  std::vector<T> derivatives(grad ? (size_t)3 * t.height * t.width * t.channels : 0, (T)NAN);
  std::vector<double> sums(2 * photometric_tiles(t), NAN);
  t.derivatives = derivatives.data();
  t.sums = sums.data();
  launch_photometric(t, Stream());
}

}  // namespace

extern "C" void photometric_float(const float* image, const void* target, const int* sizes, double ssim_weight, float* loss,
                                  float* grad) {
  solve(image, target, sizes, ssim_weight, loss, grad);
}
extern "C" void photometric_double(const double* image, const void* target, const int* sizes, double ssim_weight,
                                   double* loss, double* grad) {
  solve(image, target, sizes, ssim_weight, loss, grad);
}
