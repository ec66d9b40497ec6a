// Votes from the patch x mask bit matrix (OmniSeg3D eq. 1): AND + popcount.
// Mirrors votes() of splatseg/ops/reference/levels.py.
#include "cpu/levels.h"

namespace splatseg::SPLATSEG_ISA {
namespace {

// WORDS = 0: any number of words.
template <int WORDS>
inline void votes_row(const uint64_t* membership, int64_t k, int64_t any_words, int64_t anchor, int32_t* votes) {
  const int64_t words = WORDS ? WORDS : any_words;
  const uint64_t* own = membership + anchor * words;
  for (int64_t j = 0; j < k; j++) {
    int32_t sum = 0;
    for (int64_t w = 0; w < words; w++) sum += __builtin_popcountll(own[w] & membership[j * words + w]);
    votes[j] = sum;
  }
}

}  // namespace

void votes_of_anchors(const uint64_t* membership, int64_t k, int64_t words, int64_t begin, int64_t end, int32_t* votes) {
  for (int64_t i = begin; i < end; i++, votes += k) {
    switch (words) {
      case 1: votes_row<1>(membership, k, words, i, votes); break;
      case 2: votes_row<2>(membership, k, words, i, votes); break;
      case 3: votes_row<3>(membership, k, words, i, votes); break;
      case 4: votes_row<4>(membership, k, words, i, votes); break;
      default: votes_row<0>(membership, k, words, i, votes);
    }
  }
}

}  // namespace splatseg::SPLATSEG_ISA
