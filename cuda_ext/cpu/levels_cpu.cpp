#include "cpu/levels.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <omp.h>
#include <torch/library.h>

#include <algorithm>
#include <utility>

#include "loss_checks.h"

namespace splatseg {
namespace {

// Counting sort is used up to this many votes; real hierarchies have some tens.
constexpr int32_t kCountedVotes = 4095;
// Anchors that one thread takes at a time.
constexpr int64_t kRows = 16;

// Sorts the patches with positive votes by falling votes (stable) and returns the number of distinct values.
int32_t rank_row(const int32_t* votes, int64_t k, int32_t* related, int32_t* ends, int32_t* found, int32_t* counts) {
  int32_t n = 0, most = 0;
  for (int64_t j = 0; j < k; j++) {
    found[n] = static_cast<int32_t>(j);
    n += votes[j] > 0;
    most = std::max(most, votes[j]);
  }
  if (most > kCountedVotes) {
    std::copy(found, found + n, related);
    std::stable_sort(related, related + n, [&](int32_t a, int32_t b) { return votes[a] > votes[b]; });
  } else {
    std::fill(counts, counts + most + 1, 0);
    for (int32_t x = 0; x < n; x++) counts[votes[found[x]]]++;
    for (int32_t value = most, begin = 0; value > 0; value--) begin += std::exchange(counts[value], begin);
    for (int32_t x = 0; x < n; x++) related[counts[votes[found[x]]]++] = found[x];
  }
  int32_t levels = 0;
  for (int32_t x = 1; x <= n; x++) {
    if (x == n || votes[related[x]] != votes[related[x - 1]]) ends[levels++] = x;
  }
  return levels;
}

at::Tensor votes_cpu(const at::Tensor& membership, const at::Tensor& ids) {
  check_votes(membership, ids);
  const at::Tensor rows = membership.index_select(0, ids.to(at::kLong)).contiguous();
  const int64_t k = rows.size(0), words = rows.size(1);
  at::Tensor votes = at::empty({k, k}, membership.options().dtype(at::kInt));
  const auto* bits = reinterpret_cast<const uint64_t*>(rows.const_data_ptr<int64_t>());
  int32_t* out = votes.mutable_data_ptr<int32_t>();
  at::parallel_for(0, k, 64, [&](int64_t begin, int64_t end) {
    SPLATSEG_PICK(votes_of_anchors)(bits, k, words, begin, end, out + begin * k);
  });
  return votes;
}

at::Tensor levels_cpu(const at::Tensor& votes) {
  check_levels(votes);
  const at::Tensor source = votes.to(at::kInt).contiguous();
  const int64_t k = source.size(0);
  const auto options = source.options();
  const at::Tensor related = at::empty({k, k}, options), ends = at::empty({k, k}, options), n = at::empty({k}, options);
  const int threads = at::get_num_threads();
  const at::Tensor scratch = at::empty({level_scratch_bytes(k) * threads}, options.dtype(at::kByte));
  const LevelTables tables{k, related.mutable_data_ptr<int32_t>(), ends.mutable_data_ptr<int32_t>(),
                           n.mutable_data_ptr<int32_t>()};
  build_level_tables({nullptr, 0, source.const_data_ptr<int32_t>()}, tables,
                     reinterpret_cast<char*>(scratch.mutable_data_ptr<uint8_t>()), threads);
  at::Tensor result = at::full({k, k}, -1, options);
  int32_t* out = result.mutable_data_ptr<int32_t>();
  for (int64_t i = 0; i < k; i++) {
    for (int32_t level = 0, x = 0; level < tables.n_levels[i]; level++) {
      for (; x < tables.ends[i * k + level]; x++) out[i * k + tables.related[i * k + x]] = level;
    }
  }
  return result;
}

}  // namespace

int64_t level_scratch_bytes(int64_t k) {
  return (kRows * k + k + kCountedVotes + 1) * static_cast<int64_t>(sizeof(int32_t));
}

void build_level_tables(const VoteSource& source, const LevelTables& tables, char* scratch, int threads) {
  const int64_t k = tables.k;
  const int64_t blocks = (k + kRows - 1) / kRows;
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads) if (k > 64)
  for (int64_t block = 0; block < blocks; block++) {
    auto* rows = reinterpret_cast<int32_t*>(scratch + omp_get_thread_num() * level_scratch_bytes(k));
    int32_t* found = rows + kRows * k;
    int32_t* counts = found + k;
    const int64_t begin = block * kRows, end = std::min(k, begin + kRows);
    if (source.membership) SPLATSEG_PICK(votes_of_anchors)(source.membership, k, source.words, begin, end, rows);
    for (int64_t i = begin; i < end; i++) {
      const int32_t* votes = source.membership ? rows + (i - begin) * k : source.votes + i * k;
      tables.n_levels[i] = rank_row(votes, k, tables.related + i * k, tables.ends + i * k, found, counts);
    }
  }
}

}  // namespace splatseg

TORCH_LIBRARY_IMPL(splatseg, CPU, m) {
  m.impl("votes", splatseg::kernel<splatseg::VotesOp>(splatseg::votes_cpu));
  m.impl("levels", splatseg::kernel<splatseg::LevelsOp>(splatseg::levels_cpu));
}
