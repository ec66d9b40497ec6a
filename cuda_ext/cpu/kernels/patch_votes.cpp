// Votes between patches. Mirrors patch_votes in splatseg/ops/reference/patches.py.
#include "cpu/patch_votes.h"

namespace splatseg::SPLATSEG_ISA {

void patch_votes_rows(const uint64_t* bits, int64_t n, int64_t words, int64_t begin, int64_t end, int32_t* votes) {
  for (int64_t i = begin; i < end; i++) {
    const uint64_t* a = bits + i * words;
    for (int64_t j = 0; j < n; j++) {
      const uint64_t* b = bits + j * words;
      int32_t count = 0;
      for (int64_t w = 0; w < words; w++) count += __builtin_popcountll(a[w] & b[w]);
      votes[i * n + j] = count;
    }
  }
}

}  // namespace splatseg::SPLATSEG_ISA
