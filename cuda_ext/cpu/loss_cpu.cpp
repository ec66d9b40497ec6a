#include "cpu/loss.h"

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/scalar_tensor.h>
#include <ATen/ops/zeros_like.h>
#include <torch/library.h>

#include <algorithm>
#include <vector>

#include "loss_checks.h"

namespace splatseg {
namespace {

// Multiply-adds of one matrix product below which one thread is faster than two.
constexpr int64_t kSerialWork = 1 << 18;

// Kept samples sorted by patch (stable).
struct Samples {
  std::vector<int32_t> ids;    // (k,) patch id of each kept patch, ascending
  std::vector<int32_t> start;  // (k + 1,)
  std::vector<int32_t> order;
};

template <class Id>
Samples sort_samples(const Id* patch, int64_t n, int64_t patches, int64_t min_pixels) {
  std::vector<int32_t> count(patches, 0);
  for (int64_t i = 0; i < n; i++) {
    TORCH_CHECK(patch[i] >= 0 && patch[i] < patches, "patch: expected ids in [0, ", patches, "), found ", patch[i],
                " at index ", i);
    count[patch[i]]++;
  }
  Samples s;
  std::vector<int32_t> next(patches, -1);
  int32_t kept = 0;
  for (int64_t id = 1; id < patches; id++) {  // id 0 is the pixels in no mask
    if (count[id] < min_pixels) continue;
    s.ids.push_back(static_cast<int32_t>(id));
    s.start.push_back(kept);
    next[id] = kept;
    kept += count[id];
  }
  s.start.push_back(kept);
  s.order.resize(kept);
  for (int64_t i = 0; i < n; i++) {
    if (next[patch[i]] >= 0) s.order[next[patch[i]]++] = static_cast<int32_t>(i);
  }
  return s;
}

// Hands out aligned pieces of one allocation. Constructed without memory it only adds up the bytes.
class Arena {
 public:
  explicit Arena(char* base = nullptr) : base_(base) {}
  template <class T>
  T* take(int64_t count) {
    T* piece = reinterpret_cast<T*>(base_ + used_);
    used_ += (count * static_cast<int64_t>(sizeof(T)) + 63) / 64 * 64;
    return piece;
  }
  int64_t used() const { return used_; }

 private:
  char* base_;
  int64_t used_ = 0;
};

// The rows of the kept patches, without the others.
struct KeptVotes {
  std::vector<uint64_t> membership;
  std::vector<int32_t> votes;
  VoteSource source;
};

KeptVotes gather_votes(const std::optional<at::Tensor>& votes, const std::optional<at::Tensor>& membership,
                       const std::vector<int32_t>& ids) {
  KeptVotes kept;
  if (membership) {
    const at::Tensor rows = membership->contiguous();
    const int64_t words = rows.size(1);
    const int64_t* bits = rows.const_data_ptr<int64_t>();
    kept.membership.reserve(ids.size() * words + 1);
    for (const int32_t id : ids) kept.membership.insert(kept.membership.end(), bits + id * words, bits + (id + 1) * words);
    kept.source = {kept.membership.data(), words, nullptr};
    return kept;
  }
  const at::Tensor table = votes->contiguous();
  const int64_t patches = table.size(0);
  kept.votes.resize(ids.size() * ids.size());
  int32_t* out = kept.votes.data();
  const auto gather = [&](const auto* values) {
    for (const int32_t anchor : ids) {
      for (const int32_t id : ids) *out++ = static_cast<int32_t>(values[anchor * patches + id]);
    }
  };
  if (table.scalar_type() == at::kInt) {
    gather(table.const_data_ptr<int32_t>());
  } else {
    gather(table.const_data_ptr<int64_t>());
  }
  kept.source = {nullptr, 0, kept.votes.data()};
  return kept;
}

// Points the problem's tables and scratch into the arena.
template <class T>
void lay_out(LossProblem<T>& p, char*& level_scratch, Arena& arena) {
  p.levels = {p.k, arena.take<int32_t>(p.k * p.k), arena.take<int32_t>(p.k * p.k), arena.take<int32_t>(p.k)};
  level_scratch = arena.take<char>(level_scratch_bytes(p.k) * p.threads);
  p.unit = arena.take<T>(p.n * p.row);
  p.inverse_norm = arena.take<T>(p.n);
  p.mean = arena.take<T>(p.k * p.row);
  p.phi = arena.take<T>(p.k);
  p.chunk_loss = arena.take<double>(p.chunks);
  p.lanes = arena.take<T>(p.threads * lane_scratch(p.k, p.row));
  p.mean_grad = arena.take<T>(p.with_grad ? p.chunks * p.k * p.row : 0);
}

template <class T>
double solve(const at::Tensor& features, const Samples& samples, const VoteSource& votes, const LossScalars& scalars,
             at::Tensor* grad) {
  LossProblem<T> p{};
  p.n = samples.start.back();
  p.d = features.size(1);
  p.row = (p.d + 7) / 8 * 8;
  p.k = static_cast<int64_t>(samples.ids.size());
  p.features = features.const_data_ptr<T>();
  p.order = samples.order.data();
  p.start = samples.start.data();
  p.blocks = (p.n + kBlockLanes - 1) / kBlockLanes;
  p.chunks = std::clamp<int64_t>((p.blocks / 24 + 3) / 4 * 4, 1, 64);  // by fours: two or four threads end together
  p.phi_min = scalars.phi_min;
  p.phi_max = scalars.phi_max;
  p.phi_scale = scalars.phi_scale;
  p.level_decay = scalars.level_decay;
  p.weight = scalars.weight;
  p.with_grad = grad != nullptr;
  // Starting threads costs more than this much work.
  p.threads = p.n * p.k * p.row < kSerialWork ? 1 : at::get_num_threads();
  p.grad = grad ? grad->mutable_data_ptr<T>() : nullptr;
  char* level_scratch = nullptr;
  Arena measure;
  lay_out(p, level_scratch, measure);
  const at::Tensor memory = at::empty({measure.used()}, features.options().dtype(at::kByte));
  Arena arena(reinterpret_cast<char*>(memory.mutable_data_ptr<uint8_t>()));
  lay_out(p, level_scratch, arena);
  build_level_tables(votes, p.levels, level_scratch, p.threads);
  using Kernel = double(const LossProblem<T>&);
#if SPLATSEG_X86
  return pick<Kernel>(baseline::contrastive_loss, avx2::contrastive_loss, avx512::contrastive_loss)(p);
#else
  return static_cast<Kernel*>(baseline::contrastive_loss)(p);
#endif
}

// The order of every sum is fixed whatever `deterministic` says, and whatever the number of threads.
std::tuple<at::Tensor, at::Tensor> loss_cpu(const at::Tensor& features, const at::Tensor& patch,
                                            const std::optional<at::Tensor>& votes,
                                            const std::optional<at::Tensor>& membership, double phi_min, double phi_max,
                                            double phi_scale, double level_decay, int64_t min_pixels, double weight,
                                            bool /*deterministic*/, bool with_grad) {
  const LossScalars scalars{phi_min, phi_max, phi_scale, level_decay, min_pixels, weight};
  check_loss(features, patch, votes, membership, scalars);
  const at::Tensor values = features.contiguous(), ids = patch.contiguous();
  const int64_t n = values.size(0), patches = (votes ? *votes : *membership).size(0);
  const Samples samples = ids.scalar_type() == at::kInt
                              ? sort_samples(ids.const_data_ptr<int32_t>(), n, patches, min_pixels)
                              : sort_samples(ids.const_data_ptr<int64_t>(), n, patches, min_pixels);
  const bool all_kept = samples.start.back() == n;
  at::Tensor grad = with_grad ? (all_kept ? at::empty_like(values) : at::zeros_like(values)) : at::empty({0}, values.options());
  double loss = 0;
  if (!samples.ids.empty()) {
    const KeptVotes kept = gather_votes(votes, membership, samples.ids);
    AT_DISPATCH_FLOATING_TYPES(values.scalar_type(), "hierarchical_contrastive_loss", [&] {
      loss = solve<scalar_t>(values, samples, kept.source, scalars, with_grad ? &grad : nullptr);
    });
  }
  return {at::scalar_tensor(loss, values.options()), grad};
}

}  // namespace
}  // namespace splatseg

TORCH_LIBRARY_IMPL(splatseg, CPU, m) { m.impl("hierarchical_contrastive_loss", splatseg::kernel<splatseg::LossOp>(splatseg::loss_cpu)); }
