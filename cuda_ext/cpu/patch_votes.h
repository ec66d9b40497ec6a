#pragma once
#include <stdint.h>

#include "cpu/dispatch.h"

// Rows [begin, end) of votes (n, n): the population count of the AND of two rows of bits (n, words).
SPLATSEG_KERNEL(void, patch_votes_rows,
                (const uint64_t* bits, int64_t n, int64_t words, int64_t begin, int64_t end, int32_t* votes))
