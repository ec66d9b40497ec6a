#pragma once
#include <stdint.h>

#include "cpu/dispatch.h"

namespace splatseg {

// Related patches of every anchor, sorted by falling votes, then by index. Row i starts at i * k in each array.
struct LevelTables {
  int64_t k;          // patches
  int32_t* related;   // (k, k): patches that share a mask with the anchor; entries past the last level are not set
  int32_t* ends;      // (k, k): end of each level in `related`
  int32_t* n_levels;  // (k,)
};

// Where votes come from: the bit matrix (membership, gathered for the k patches) or, if that is null, a (k, k) matrix.
struct VoteSource {
  const uint64_t* membership;  // (k, words)
  int64_t words;
  const int32_t* votes;
};

// Bytes of scratch that build_level_tables needs for each thread.
int64_t level_scratch_bytes(int64_t k);

// Fills the tables, rows in parallel; the result does not depend on `threads`.
void build_level_tables(const VoteSource& source, const LevelTables& tables, char* scratch, int threads);

}  // namespace splatseg

// votes[i - begin, j] = number of bits that rows i and j of the (k, words) bit matrix share, for anchors [begin, end).
SPLATSEG_KERNEL(void, votes_of_anchors,
                (const uint64_t* membership, int64_t k, int64_t words, int64_t begin, int64_t end, int32_t* votes))
