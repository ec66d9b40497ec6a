// The CUDA kernels of the hierarchical contrastive loss, on the host emulator, behind C functions.
#include <algorithm>

#include "cuda/loss_kernels.cuh"

using namespace splatseg::cuda;

namespace {

// Scratch is filled with NaN bytes, so that what a kernel reads before it is written shows.
template <class T>
void run(LossTask<T> t, bool deterministic) {
  int64_t cleared = 0;
  lay_out_tables(t);
  const int64_t bytes = t.at.bytes + lay_out(t, nullptr, cleared);
  if (t.n == 0 || t.k_max <= 0) {  // as loss_cuda.cu
    *t.loss = 0;
    if (t.with_grad) std::fill(t.grad, t.grad + (int64_t)t.n * t.d, T(0));
    return;
  }
  std::vector<char> memory(bytes + 256, (char)0xff);
  char* base = memory.data() + 255;
  base -= reinterpret_cast<uintptr_t>(base) % 256;
  t.tables = base;
  lay_out(t, base + t.at.bytes, cleared);
  if (deterministic) {
    launch_loss<T, ExactSum<T>>(t, cleared, Stream());
  } else {
    launch_loss<T, FastSum<T>>(t, cleared, Stream());
  }
}

template <class T>
void solve(const T* features, const int* patch, const int* votes, const int64_t* membership, const int* sizes,
           const double* scalars, T* loss, T* grad) {
  LossTask<T> t{};
  t.n = sizes[0];
  t.d = sizes[1];
  t.patches = sizes[2];
  t.words = sizes[3];
  t.min_pixels = sizes[4];
  t.with_grad = grad != nullptr;
  t.phi_min = scalars[0];
  t.phi_max = scalars[1];
  t.phi_scale = scalars[2];
  t.level_decay = scalars[3];
  t.weight = scalars[4];
  t.features = features;
  t.patch = patch;
  t.votes = votes;
  t.membership = membership;
  t.loss = loss;
  t.grad = grad;
  run(t, sizes[5] != 0);
}

}  // namespace

extern "C" void loss_float(const float* features, const int* patch, const int* votes, const int64_t* membership,
                           const int* sizes, const double* scalars, float* loss, float* grad) {
  solve(features, patch, votes, membership, sizes, scalars, loss, grad);
}
extern "C" void loss_double(const double* features, const int* patch, const int* votes, const int64_t* membership,
                            const int* sizes, const double* scalars, double* loss, double* grad) {
  solve(features, patch, votes, membership, sizes, scalars, loss, grad);
}
