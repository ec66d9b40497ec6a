// Votes from the patch x mask bit matrix (OmniSeg3D eq. 1): AND + popcount.
// Mirrors votes() of splatseg/ops/reference/levels.py.
#include "cpu/levels.h"

#include <string.h>

namespace splatseg::SPLATSEG_ISA {
namespace {

// Up to this many words of the anchor that are not zero are listed: a patch lies in few masks, so most words are zero.
constexpr int kListed = 4;

// WORDS: words to compare, those in `at`.
template <int WORDS>
inline void votes_row(const uint64_t* membership, int64_t k, int64_t words, const uint64_t* own, const int64_t* at,
                      int32_t* votes) {
  for (int64_t j = 0; j < k; j++) {
    const uint64_t* other = membership + j * words;
    int32_t sum = 0;
#pragma GCC unroll 4
    for (int w = 0; w < WORDS; w++) sum += __builtin_popcountll(own[at[w]] & other[at[w]]);
    votes[j] = sum;
  }
}

inline void votes_row_any(const uint64_t* membership, int64_t k, int64_t words, const uint64_t* own, int32_t* votes) {
  for (int64_t j = 0; j < k; j++) {
    int32_t sum = 0;
    for (int64_t w = 0; w < words; w++) sum += __builtin_popcountll(own[w] & membership[j * words + w]);
    votes[j] = sum;
  }
}

}  // namespace

void votes_of_anchors(const uint64_t* membership, int64_t k, int64_t words, int64_t begin, int64_t end, int32_t* votes) {
  for (int64_t i = begin; i < end; i++, votes += k) {
    const uint64_t* own = membership + i * words;
    int64_t at[kListed] = {};
    int listed = 0;
    for (int64_t w = 0; w < words; w++) {
      if (own[w] == 0) continue;
      if (listed < kListed) at[listed] = w;
      listed++;
    }
    switch (listed) {
      case 0: memset(votes, 0, k * sizeof(int32_t)); break;
      case 1: votes_row<1>(membership, k, words, own, at, votes); break;
      case 2: votes_row<2>(membership, k, words, own, at, votes); break;
      case 3: votes_row<3>(membership, k, words, own, at, votes); break;
      case 4: votes_row<4>(membership, k, words, own, at, votes); break;
      default: votes_row_any(membership, k, words, own, votes);
    }
  }
}

}  // namespace splatseg::SPLATSEG_ISA
