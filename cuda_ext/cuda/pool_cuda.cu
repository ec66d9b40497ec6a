// splatseg::pooled_loss_ and pool_loss_tables on CUDA: checks, memory, launches.
#include "cuda/pool_kernels.cuh"

#include <ATen/ATen.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <torch/library.h>

#include <algorithm>

#include "pooled_checks.h"
#include "cuda/stream.h"

namespace splatseg {
namespace {

using at::Tensor;

char* bytes_of(const Tensor& t) { return reinterpret_cast<char*>(t.mutable_data_ptr<uint8_t>()); }

// The part of the task that all batches have in common, with `rows` samples at most; its tables are laid out.
template <class T>
cuda::LossTask<T> task_of(const BatchTensors& b, int64_t rows, int64_t min_pixels, double level_decay) {
  cuda::LossTask<T> t{};
  t.n = static_cast<int>(rows);
  t.patches = static_cast<int>(b.membership.size(1));
  t.words = static_cast<int>(b.membership.size(2));
  t.min_pixels = static_cast<int>(std::min<int64_t>(min_pixels, INT32_MAX));
  t.sorted = true;
  t.level_decay = level_decay;
  t.patch = b.patch.const_data_ptr<int>();
  t.membership = b.membership.const_data_ptr<int64_t>();
  cuda::lay_out_tables(t);
  TORCH_CHECK(t.k_max < cuda::kMaxPatches, "min_pixels: ", t.k_max, " patches could be kept, expected fewer than ",
              cuda::kMaxPatches);
  return t;
}

Tensor pool_loss_tables_cuda(const Tensor& patch, const Tensor& batch_start, const Tensor& view, const Tensor& membership,
                             int64_t min_pixels, double level_decay, int64_t max_bytes) {
  const BatchTensors batches{patch, batch_start, view, membership};
  check_batches(batches, min_pixels);
  const c10::cuda::CUDAGuard guard(patch.device());
  const Tensor starts = batch_start.cpu(), views = view.cpu();
  const auto* start = starts.const_data_ptr<int64_t>();
  const int64_t count = view.size(0);
  int64_t rows = 1;
  for (int64_t k = 0; k < count; k++) rows = std::max(rows, start[k + 1] - start[k]);
  auto t = task_of<float>(batches, rows, min_pixels, level_decay);
  const bool prepared = count <= 1 || count * t.at.bytes <= max_bytes;
  const Tensor tables = at::empty({prepared ? count : 1, t.at.bytes}, patch.options().dtype(at::kByte));
  int64_t cleared = 0;
  const Tensor memory = at::empty({cuda::lay_out(t, nullptr, cleared)}, tables.options());
  cuda::lay_out(t, bytes_of(memory), cleared);
  for (int64_t k = 0; prepared && k < count; k++) {
    const int64_t whose = views.const_data_ptr<int>()[k];
    TORCH_CHECK_VALUE(start[k] >= 0 && start[k] <= start[k + 1] && start[k + 1] <= patch.size(0) && whose >= 0 &&
                          whose < membership.size(0),
                      "batch_start, view: expected rising rows of patch and views of membership, found batch ", k, " at ",
                      start[k], "..", start[k + 1], " of view ", whose);
    auto one = t;
    one.n = static_cast<int>(start[k + 1] - start[k]);
    one.patch += start[k];
    one.membership += whose * membership.size(1) * membership.size(2);
    one.tables = bytes_of(tables) + k * t.at.bytes;
    cuda::launch_tables(one, cleared, current_stream());
  }
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return tables;
}

template <class T>
cuda::PoolBatches<T> batches_of(const PooledTensors& p) {
  cuda::PoolBatches<T> pool{};
  pool.steps = p.schedule.size(0);
  pool.batches = p.batches.view.size(0);
  pool.views = p.batches.membership.size(0);
  pool.cells = p.cells.mutable_data_ptr<int64_t>();
  pool.schedule = p.schedule.const_data_ptr<int>();
  pool.batch_start = p.batches.batch_start.const_data_ptr<int64_t>();
  pool.view = p.batches.view.const_data_ptr<int>();
  pool.losses = p.losses.mutable_data_ptr<T>();
  pool.prepared = p.tables.size(0) == pool.batches;
  return pool;
}

struct PooledSettings {
  double phi_min, phi_max, phi_scale, level_decay;
  int64_t min_pixels;
  double weight;
  bool deterministic;
};

template <class T, class W>
void solve(const PooledTensors& p, const PooledSettings& s) {
  cuda::PooledTask<T, W> t{};
  t.loss = task_of<T>(p.batches, p.grad.size(0), s.min_pixels, s.level_decay);
  t.loss.d = static_cast<int>(p.features.size(1));
  t.loss.with_grad = true;
  t.loss.phi_min = s.phi_min;
  t.loss.phi_max = s.phi_max;
  t.loss.phi_scale = s.phi_scale;
  t.loss.weight = s.weight;
  t.loss.grad = p.grad.mutable_data_ptr<T>();
  t.loss.pool = batches_of<T>(p);
  t.loss.tables = bytes_of(p.tables);
  TORCH_CHECK_VALUE(p.tables.size(1) == t.loss.at.bytes && (t.loss.pool.prepared || p.tables.size(0) == 1),
                    "tables: expected those of pool_loss_tables for these batches, ", t.loss.at.bytes, " bytes, found ",
                    p.tables.sizes());
  TORCH_CHECK(std::max(cuda::spread_shared<T>(t.loss.d), cuda::unit_bytes<T>(t.loss.d)) <= cuda::kSharedLimit,
              "features: expected fewer columns on CUDA, found d = ", t.loss.d);
  t.blend.csr_rows = p.offsets.size(0) - 1;
  t.blend.entries = p.ids.size(0);
  t.blend.n = p.features.size(0);
  t.blend.d = p.features.size(1);
  t.blend.offsets = p.offsets.const_data_ptr<int64_t>();
  t.blend.ids = p.ids.const_data_ptr<int>();
  t.blend.weights = static_cast<const W*>(p.weights.const_data_ptr());
  t.blend.matrix = p.features.const_data_ptr<T>();
  int64_t cleared = 0;
  const int64_t bytes = cuda::lay_out(t.loss, nullptr, cleared, cuda::kTileParts);
  const Tensor memory = at::empty({bytes}, p.tables.options());
  cuda::lay_out(t.loss, bytes_of(memory), cleared, cuda::kTileParts);
  const bool deterministic = s.deterministic || at::globalContext().deterministicAlgorithms();
  if (deterministic) cuda::launch_pooled_loss<T, W, cuda::ExactSum<T>>(t, cleared, current_stream());
  else cuda::launch_pooled_loss<T, W, cuda::FastSum<T>>(t, cleared, current_stream());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

void pooled_loss_cuda_(Tensor cells, const Tensor& schedule, const Tensor& batch_start, const Tensor& view,
                       const Tensor& offsets, const Tensor& ids, const Tensor& weights, const Tensor& patch,
                       const Tensor& membership, const Tensor& tables, const Tensor& features, Tensor grad, Tensor losses,
                       double phi_min, double phi_max, double phi_scale, double level_decay, int64_t min_pixels,
                       double weight, bool deterministic) {
  const PooledTensors p{{patch, batch_start, view, membership}, cells,    schedule, offsets, ids, weights,
                        tables,                                 features, grad,     losses};
  check_batches(p.batches, min_pixels);
  check_pooled_loss(p);
  if (features.size(1) == 0 || grad.size(0) == 0 || view.size(0) == 0) return;
  for (const auto* t : {&p.features, &p.grad})
    TORCH_CHECK_VALUE(reinterpret_cast<uintptr_t>(t->const_data_ptr()) % 16 == 0,
                      "features, grad: expected memory aligned to 16 bytes");
  const c10::cuda::CUDAGuard guard(features.device());
  const PooledSettings settings{phi_min, phi_max, phi_scale, level_decay, min_pixels, weight, deterministic};
  if (features.scalar_type() == at::kDouble) solve<double, double>(p, settings);
  else if (weights.scalar_type() == at::kHalf) solve<float, cuda::Half>(p, settings);
  else solve<float, float>(p, settings);
}

}  // namespace
}  // namespace splatseg

TORCH_LIBRARY_IMPL(splatseg, CUDA, m) {
  m.impl("pool_loss_tables", splatseg::kernel<splatseg::PoolLossTablesOp>(splatseg::pool_loss_tables_cuda));
  m.impl("pooled_loss_", splatseg::kernel<splatseg::PooledLossOp>(splatseg::pooled_loss_cuda_));
}
