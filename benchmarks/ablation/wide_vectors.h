// The AVX-512 intrinsics that ../shared/prototypes use, as pairs of AVX2 vectors: lets those sources run, for a
// comparison, on a processor without AVX-512. Force-included (g++ -include) before them; benchmarks/ablation/prototypes.py only.
//
// What it costs beside a port of the sources: a 16-bit mask must be expanded to lanes wherever it selects (and +
// compare), and code written for 32 registers of 16 lanes spills with 16 of 8. No result depends on it but for the
// reciprocal estimate (12 bits instead of 14), after which the sources take a Newton step.
#pragma once
#include <immintrin.h>

#include <cstdint>

namespace wide {

struct Floats {
  __m256 low, high;  // lanes 0..7 and 8..15
};
struct Bits {
  __m256i low, high;
};
using Mask = uint16_t;

// ---- memory

static inline Floats load(const void* p) {
  const float* f = static_cast<const float*>(p);
  return {_mm256_load_ps(f), _mm256_load_ps(f + 8)};
}
static inline Floats loadu(const void* p) {
  const float* f = static_cast<const float*>(p);
  return {_mm256_loadu_ps(f), _mm256_loadu_ps(f + 8)};
}
static inline void store(void* p, Floats a) {
  float* f = static_cast<float*>(p);
  _mm256_store_ps(f, a.low);
  _mm256_store_ps(f + 8, a.high);
}
static inline void storeu(void* p, Floats a) {
  float* f = static_cast<float*>(p);
  _mm256_storeu_ps(f, a.low);
  _mm256_storeu_ps(f + 8, a.high);
}
static inline void stream(void* p, Floats a) {
  float* f = static_cast<float*>(p);
  _mm256_stream_ps(f, a.low);
  _mm256_stream_ps(f + 8, a.high);
}
static inline Bits loadu_bits(const void* p) {
  const __m256i* v = static_cast<const __m256i*>(p);
  return {_mm256_loadu_si256(v), _mm256_loadu_si256(v + 1)};
}
static inline void storeu_bits(void* p, Bits a) {
  __m256i* v = static_cast<__m256i*>(p);
  _mm256_storeu_si256(v, a.low);
  _mm256_storeu_si256(v + 1, a.high);
}
static inline Floats set1(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
static inline Floats zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
static inline Bits set1_int(int x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }

// ---- arithmetic

static inline Floats add(Floats a, Floats b) { return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)}; }
static inline Floats sub(Floats a, Floats b) { return {_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)}; }
static inline Floats mul(Floats a, Floats b) { return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)}; }
static inline Floats div(Floats a, Floats b) { return {_mm256_div_ps(a.low, b.low), _mm256_div_ps(a.high, b.high)}; }
static inline Floats min(Floats a, Floats b) { return {_mm256_min_ps(a.low, b.low), _mm256_min_ps(a.high, b.high)}; }
static inline Floats max(Floats a, Floats b) { return {_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)}; }
static inline Floats sqrt(Floats a) { return {_mm256_sqrt_ps(a.low), _mm256_sqrt_ps(a.high)}; }
static inline Floats rcp(Floats a) { return {_mm256_rcp_ps(a.low), _mm256_rcp_ps(a.high)}; }
static inline Floats fmadd(Floats a, Floats b, Floats c) {
  return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
}
static inline Floats fnmadd(Floats a, Floats b, Floats c) {
  return {_mm256_fnmadd_ps(a.low, b.low, c.low), _mm256_fnmadd_ps(a.high, b.high, c.high)};
}

static inline __m256 less_nearest(__m256 a) {
  return _mm256_sub_ps(a, _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
// a minus the nearest integer; the only form of _mm512_reduce_ps the sources use.
template <int control>
static inline Floats reduce(Floats a) {
  static_assert(control == _MM_FROUND_NO_EXC, "expected rounding to the nearest integer");
  return {less_nearest(a.low), less_nearest(a.high)};
}

static inline __m256 scale(__m256 a, __m256 n) {
  const __m256i exponent = _mm256_slli_epi32(_mm256_cvtps_epi32(n), 23);
  return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(a), exponent));
}
// a 2^n for integers n that leave the result normal. The sources mask the lanes off in which it would not be.
static inline Floats scalef(Floats a, Floats n) { return {scale(a.low, n.low), scale(a.high, n.high)}; }

// ---- masks

static inline __m256 expand(__m256i mask, __m256i bit) {
  return _mm256_castsi256_ps(_mm256_cmpeq_epi32(_mm256_and_si256(mask, bit), bit));
}
// All ones in the lanes whose bit is set.
static inline Floats expand(Mask m) {
  const __m256i mask = _mm256_set1_epi32(m), bit = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
  return {expand(mask, bit), expand(mask, _mm256_slli_epi32(bit, 8))};
}
template <int relation>
static inline Mask compare(Floats a, Floats b) {
  const int low = _mm256_movemask_ps(_mm256_cmp_ps(a.low, b.low, relation));
  const int high = _mm256_movemask_ps(_mm256_cmp_ps(a.high, b.high, relation));
  return static_cast<Mask>(low | high << 8);
}
// b where the mask is set, else a.
static inline Floats select(Floats a, Mask m, Floats b) {
  const Floats set = expand(m);
  return {_mm256_blendv_ps(a.low, b.low, set.low), _mm256_blendv_ps(a.high, b.high, set.high)};
}
static inline Floats keep(Mask m, Floats a) {
  const Floats set = expand(m);
  return {_mm256_and_ps(a.low, set.low), _mm256_and_ps(a.high, set.high)};
}
static inline Bits select_bits(Bits a, Mask m, Bits b) {
  const Floats chosen = select({_mm256_castsi256_ps(a.low), _mm256_castsi256_ps(a.high)}, m,
                               {_mm256_castsi256_ps(b.low), _mm256_castsi256_ps(b.high)});
  return {_mm256_castps_si256(chosen.low), _mm256_castps_si256(chosen.high)};
}

// ---- across lanes

static inline float sum(Floats a) {
  const __m256 eight = _mm256_add_ps(a.low, a.high);
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
static inline Floats unpacklo(Floats a, Floats b) {
  return {_mm256_unpacklo_ps(a.low, b.low), _mm256_unpacklo_ps(a.high, b.high)};
}
static inline Floats unpackhi(Floats a, Floats b) {
  return {_mm256_unpackhi_ps(a.low, b.low), _mm256_unpackhi_ps(a.high, b.high)};
}
template <int order>
static inline Floats shuffle(Floats a, Floats b) {
  return {_mm256_shuffle_ps(a.low, b.low, order), _mm256_shuffle_ps(a.high, b.high, order)};
}
// Two of the four 128-bit lanes of a, then two of those of b.
template <int order>
static inline Floats shuffle_lanes(Floats a, Floats b) {
  constexpr int first = (order & 3) | (order >> 2 & 3) << 4, second = (order >> 4 & 3) | (order >> 6 & 3) << 4;
  return {_mm256_permute2f128_ps(a.low, a.high, first), _mm256_permute2f128_ps(b.low, b.high, second)};
}

// ---- bytes and words

static inline Bits both(Bits a, Bits b) { return {_mm256_and_si256(a.low, b.low), _mm256_and_si256(a.high, b.high)}; }

static inline uint64_t test_bytes(Bits a, Bits b) {
  const Bits v = both(a, b);
  const unsigned low = _mm256_movemask_epi8(_mm256_cmpeq_epi8(v.low, _mm256_setzero_si256()));
  const unsigned high = _mm256_movemask_epi8(_mm256_cmpeq_epi8(v.high, _mm256_setzero_si256()));
  return ~(static_cast<uint64_t>(high) << 32 | low);
}

static inline __m256i count_bits(__m256i a) {  // of each 64-bit word, by a table of nibbles
  const __m256i table = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4));
  const __m256i nibble = _mm256_set1_epi8(15);
  const __m256i low = _mm256_shuffle_epi8(table, _mm256_and_si256(a, nibble));
  const __m256i high = _mm256_shuffle_epi8(table, _mm256_and_si256(_mm256_srli_epi16(a, 4), nibble));
  return _mm256_sad_epu8(_mm256_add_epi8(low, high), _mm256_setzero_si256());
}
static inline Bits popcount(Bits a) { return {count_bits(a.low), count_bits(a.high)}; }

static inline long long sum_words(Bits a) {
  const __m256i four = _mm256_add_epi64(a.low, a.high);
  const __m128i two = _mm_add_epi64(_mm256_castsi256_si128(four), _mm256_extracti128_si256(four, 1));
  return _mm_cvtsi128_si64(two) + _mm_extract_epi64(two, 1);
}

static inline __m256i look_up(__m256i index, Bits table) {
  const __m256i quarter = _mm256_and_si256(index, _mm256_set1_epi8(48));
  const __m256i at = _mm256_and_si256(index, _mm256_set1_epi8(15));
  const __m256i rows[4] = {
      _mm256_permute2x128_si256(table.low, table.low, 0x00), _mm256_permute2x128_si256(table.low, table.low, 0x11),
      _mm256_permute2x128_si256(table.high, table.high, 0x00), _mm256_permute2x128_si256(table.high, table.high, 0x11)};
  __m256i found = _mm256_setzero_si256();
  for (int row = 0; row < 4; row++) {
    const __m256i here = _mm256_cmpeq_epi8(quarter, _mm256_set1_epi8(static_cast<char>(16 * row)));
    found = _mm256_or_si256(found, _mm256_and_si256(here, _mm256_shuffle_epi8(rows[row], at)));
  }
  return found;
}
// Byte i of the result is byte index[i] & 63 of the table.
static inline Bits permute_bytes(Bits index, Bits table) {
  return {look_up(index.low, table), look_up(index.high, table)};
}

}  // namespace wide

#define __m512 wide::Floats
#define __m512i wide::Bits
#define __mmask16 wide::Mask
#define __mmask64 uint64_t

#define _mm512_load_ps wide::load
#define _mm512_loadu_ps wide::loadu
#define _mm512_store_ps wide::store
#define _mm512_storeu_ps wide::storeu
#define _mm512_stream_ps wide::stream
#define _mm512_loadu_si512 wide::loadu_bits
#define _mm512_storeu_si512 wide::storeu_bits
#define _mm512_store_si512 wide::storeu_bits
#define _mm512_set1_ps wide::set1
#define _mm512_setzero_ps wide::zero
#define _mm512_set1_epi32 wide::set1_int

#define _mm512_add_ps wide::add
#define _mm512_sub_ps wide::sub
#define _mm512_mul_ps wide::mul
#define _mm512_div_ps wide::div
#define _mm512_min_ps wide::min
#define _mm512_max_ps wide::max
#define _mm512_sqrt_ps wide::sqrt
#define _mm512_rcp14_ps wide::rcp
#define _mm512_fmadd_ps wide::fmadd
#define _mm512_fnmadd_ps wide::fnmadd
#define _mm512_reduce_ps(a, control) wide::reduce<(control)>(a)
#define _mm512_scalef_ps wide::scalef

#define _mm512_cmp_ps_mask(a, b, relation) wide::compare<(relation)>(a, b)
#define _mm512_mask_cmp_ps_mask(m, a, b, relation) static_cast<wide::Mask>((m) & wide::compare<(relation)>(a, b))
#define _mm512_mask_mov_ps wide::select
#define _mm512_mask_mov_epi32 wide::select_bits
#define _mm512_maskz_mov_ps wide::keep
#define _mm512_mask_add_ps(a, m, b, c) wide::select(a, m, wide::add(b, c))
#define _mm512_mask_sub_ps(a, m, b, c) wide::select(a, m, wide::sub(b, c))
#define _mm512_maskz_mul_ps(m, a, b) wide::keep(m, wide::mul(a, b))
#define _mm512_maskz_div_ps(m, a, b) wide::keep(m, wide::div(a, b))

#define _mm512_reduce_add_ps wide::sum
#define _mm512_mask_reduce_add_ps(m, a) wide::sum(wide::keep(m, a))
#define _mm512_unpacklo_ps wide::unpacklo
#define _mm512_unpackhi_ps wide::unpackhi
#define _mm512_shuffle_ps(a, b, order) wide::shuffle<(order)>(a, b)
#define _mm512_shuffle_f32x4(a, b, order) wide::shuffle_lanes<(order)>(a, b)

#define _mm512_and_si512 wide::both
#define _mm512_test_epi8_mask wide::test_bytes
#define _mm512_popcnt_epi64 wide::popcount
#define _mm512_reduce_add_epi64 wide::sum_words
#define _mm512_permutexvar_epi8 wide::permute_bytes
