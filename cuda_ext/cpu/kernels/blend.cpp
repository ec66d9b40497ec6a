#include "cpu/blend.h"

#include "cpu/simd.h"

namespace splatseg::SPLATSEG_ISA {
namespace {

// Entries ahead whose feature row is fetched: their addresses are random, and a row is one or two cache lines.
constexpr int64_t kAhead = 12;
constexpr int64_t kSegment = 512;

SPLATSEG_INLINE float to_scalar(float w) { return w; }
SPLATSEG_INLINE double to_scalar(double w) { return w; }
// float16 -> float32 for finite w >= 0, exact with denormals too, without F16C: rebias the exponent by a product.
SPLATSEG_INLINE float to_scalar(uint16_t w) {
  const uint32_t shifted = (uint32_t)w << 13;
  float value;
  memcpy(&value, &shifted, sizeof value);
  return value * 0x1p112f;
}

struct Span {
  int64_t begin, end;
};

// Entries of output row i; begin = -1 where the row or its offsets are out of range.
SPLATSEG_INLINE Span row_span(const BlendJob& job, int64_t i) {
  const int64_t row = job.rows ? job.rows[i] : i;
  if ((uint64_t)row >= (uint64_t)job.csr_rows) return {-1, -1};
  const int64_t begin = job.offsets[row], end = job.offsets[row + 1];
  if (begin < 0 || begin > end || end > job.entries) return {-1, -1};
  return {begin, end};
}

// Output rows ahead whose ids and weights are fetched: a batch takes some rows of a pool, and there are many pools.
constexpr int64_t kRowsAhead = 4;

// Asks for the first entries of output row i; the first cache lines hold most rows.
template <class W>
SPLATSEG_INLINE void prefetch_entries(const BlendJob& job, int64_t i) {
  if (i >= job.count) return;
  const Span span = row_span(job, i);
  const W* weights = (const W*)job.weights;
  for (int64_t k = span.begin; k < span.end && k < span.begin + 48; k += 16) {
    __builtin_prefetch(job.ids + k);
    __builtin_prefetch(weights + k);
  }
}

// Asks for the matrix rows of output row i's Gaussians, up to the first 32. Entries that follow in the CSR would not do: the next
// chosen row is rarely the next one there.
template <class T>
SPLATSEG_INLINE void prefetch_rows(const BlendJob& job, const T* matrix, int64_t i) {
  if (i >= job.count) return;
  const Span span = row_span(job, i);
  for (int64_t k = span.begin; k < span.end && k < span.begin + 32; k++) __builtin_prefetch(matrix + job.ids[k] * job.d);
}

SPLATSEG_INLINE bool ids_in_range(const int32_t* ids, Span span, int64_t n) {
  uint32_t largest = 0;  // negative ids are large unsigned ones
  for (int64_t k = span.begin; k < span.end; k++) largest = (uint32_t)ids[k] > largest ? (uint32_t)ids[k] : largest;
  return span.begin == span.end || (int64_t)largest < n;
}

// Checked entries of output row i, begin = -1 where something is out of range; asks for what the next rows will need of
// `matrix` (n, d).
template <class W, class T>
SPLATSEG_INLINE Span enter_row(const BlendJob& job, const T* matrix, int64_t i) {
  prefetch_entries<W>(job, i + kRowsAhead);
  prefetch_rows(job, matrix, i + 1);
  const Span span = row_span(job, i);
  if (span.begin < 0 || !ids_in_range(job.ids, span, job.n)) return {-1, -1};
  return span;
}

// B vectors of channels of one output row; two sets of accumulators hide the latency of the multiply-add.
template <class W, class T, int B>
SPLATSEG_INLINE void gather(const BlendJob& job, const W* weights, Span span, const T* features, T* out) {
  Vec<T> even[B] = {}, odd[B] = {};
  int64_t k = span.begin;
  for (; k + 2 <= span.end; k += 2) {
    if (k + kAhead < span.end) __builtin_prefetch(features + job.ids[k + kAhead] * job.d);
    if (k + kAhead + 1 < span.end) __builtin_prefetch(features + job.ids[k + kAhead + 1] * job.d);
    const T* f = features + job.ids[k] * job.d;
    const T* g = features + job.ids[k + 1] * job.d;
    const Vec<T> w = splat((T)to_scalar(weights[k])), v = splat((T)to_scalar(weights[k + 1]));
    for (int b = 0; b < B; b++) {
      even[b] += w * load(f + kLanes * b);
      odd[b] += v * load(g + kLanes * b);
    }
  }
  if (k < span.end) {
    const T* f = features + job.ids[k] * job.d;
    const Vec<T> w = splat((T)to_scalar(weights[k]));
    for (int b = 0; b < B; b++) even[b] += w * load(f + kLanes * b);
  }
  for (int b = 0; b < B; b++) store(out + kLanes * b, even[b] + odd[b]);
}

template <class W, class T>
bool forward(const BlendJob& job, const T* features, T* out, int64_t begin, int64_t end) {
  const W* weights = (const W*)job.weights;
  for (int64_t i = begin; i < end; i++) {
    const Span span = enter_row<W>(job, features, i);
    if (span.begin < 0) return false;
    T* row = out + i * job.d;
    int64_t c = 0;
    for (; c + 32 <= job.d; c += 32) gather<W, T, 4>(job, weights, span, features + c, row + c);
    for (; c + 16 <= job.d; c += 16) gather<W, T, 2>(job, weights, span, features + c, row + c);
    for (; c + 8 <= job.d; c += 8) gather<W, T, 1>(job, weights, span, features + c, row + c);
    for (; c < job.d; c++) {
      T sum = 0;
      for (int64_t k = span.begin; k < span.end; k++) sum += (T)to_scalar(weights[k]) * features[job.ids[k] * job.d + c];
      row[c] = sum;
    }
  }
  return true;
}

// Positions of the set bits of every byte, for packing the chosen lanes of a vector to its front.
struct PackTable {
  uint8_t lanes[256][8];
  constexpr PackTable() : lanes() {
    for (int mask = 0; mask < 256; mask++) {
      int count = 0;
      for (int lane = 0; lane < 8; lane++)
        if (mask >> lane & 1) lanes[mask][count++] = (uint8_t)lane;
    }
  }
};
constexpr PackTable kPack;

// Writes the indices k (relative to `begin`) of the entries in [begin, end) that fall to the share; returns how many.
// Every chosen id is checked by the caller. `chosen` has room for 8 more than end - begin.
SPLATSEG_INLINE int64_t choose(const int32_t* ids, int64_t begin, int64_t end, int32_t share, int32_t mask, int32_t* chosen) {
  int64_t count = 0, k = begin;
#if defined(__AVX2__)
  const i32x8 want = {share, share, share, share, share, share, share, share};
  for (; k + kLanes <= end; k += kLanes) {
    i32x8 id;
    memcpy(&id, ids + k, sizeof id);
    const unsigned taken = bits((i32x8)(((id >> 6) & mask) == want));
    uint64_t packed;
    memcpy(&packed, kPack.lanes[taken], sizeof packed);
    const __m256i lanes = _mm256_cvtepu8_epi32(_mm_cvtsi64_si128((long long)packed));
    const __m256i index = _mm256_add_epi32(lanes, _mm256_set1_epi32((int)(k - begin)));
    memcpy(chosen + count, &index, sizeof index);
    count += __builtin_popcount(taken);
  }
#endif
  for (; k < end; k++) {
    chosen[count] = (int32_t)(k - begin);
    count += ((ids[k] >> 6) & mask) == share;
  }
  return count;
}
static_assert(kShareBlock == 1 << 6);

template <class T>
SPLATSEG_INLINE void add_scaled(T* sum, const T* grad, T w, int64_t d) {
  int64_t c = 0;
  for (; c + kLanes <= d; c += kLanes) store(sum + c, load(sum + c) + splat(w) * load(grad + c));
  for (; c < d; c++) sum[c] += w * grad[c];
}

// The chosen entries of one segment of a row, D channels (0: job.d of them).
template <class W, class T, int D>
SPLATSEG_INLINE bool scatter(const BlendJob& job, int64_t begin, const int32_t* chosen, int64_t count, const T* grad, T* sum,
                             uint8_t* touched) {
  const int64_t d = D ? D : job.d;
  const int32_t* ids = job.ids + begin;
  const W* weights = (const W*)job.weights + begin;
  for (int64_t j = 0; j < count; j++) {
    const int32_t id = ids[chosen[j]];
    if ((uint32_t)id >= (uint64_t)job.n) return false;
    add_scaled<T>(sum + id * d, grad, (T)to_scalar(weights[chosen[j]]), d);
    if (touched) touched[id] = 1;
  }
  return true;
}

struct Segment {
  int64_t output_row, begin, end;  // entries [begin, end), at most kSegment of them
};

// Steps through the entries of output rows [i + 1, end), segment by segment; a segment's end is -1 where something is out of
// range.
struct SegmentWalk {
  const BlendJob& job;
  int64_t i, end;
  Span left = {0, 0};

  bool next(Segment& segment) {
    while (left.begin == left.end) {
      if (++i >= end) return false;
      left = row_span(job, i);
      if (left.begin < 0) {
        segment.end = -1;
        return true;
      }
    }
    const int64_t last = left.end - left.begin > kSegment ? left.begin + kSegment : left.end;
    segment = {i, left.begin, last};
    left.begin = last;
    return true;
  }
};

// One segment is chosen and its rows of `sum` are fetched while the one before it is added up.
template <class W, class T, int D>
bool add_share(const BlendJob& job, const T* grad, T* sum, uint8_t* touched, const BlendShare& part) {
  int32_t chosen[2][kSegment + kLanes];
  int64_t count[2] = {0, 0};
  Segment segment[2];
  SegmentWalk walk{job, part.begin - 1, part.end};
  bool have_last = false;
  for (int now = 0;; now ^= 1) {
    const bool more = walk.next(segment[now]);
    if (more) {
      const Segment& s = segment[now];
      if (s.end < 0) return false;
      count[now] = choose(job.ids, s.begin, s.end, (int32_t)part.share, (int32_t)(part.shares - 1), chosen[now]);
      for (int64_t j = 0; j < count[now]; j++) __builtin_prefetch(sum + job.ids[s.begin + chosen[now][j]] * job.d, 1);
    }
    if (have_last) {
      const Segment& s = segment[now ^ 1];
      if (!scatter<W, T, D>(job, s.begin, chosen[now ^ 1], count[now ^ 1], grad + s.output_row * job.d, sum, touched))
        return false;
    }
    if (!more) return true;
    have_last = true;
  }
}

// The rows' every entry: nothing to choose.
template <class W, class T, int D>
bool add_rows(const BlendJob& job, const T* grad, T* sum, uint8_t* touched, int64_t begin, int64_t end) {
  const int64_t d = D ? D : job.d;
  const W* weights = (const W*)job.weights;
  for (int64_t i = begin; i < end; i++) {
    const Span span = enter_row<W>(job, sum, i);
    if (span.begin < 0) return false;
    for (int64_t k = span.begin; k < span.end; k++) {
      const int64_t id = job.ids[k];
      add_scaled<T>(sum + id * d, grad + i * d, (T)to_scalar(weights[k]), d);
      if (touched) touched[id] = 1;
    }
  }
  return true;
}

template <class W, class T, int D>
bool backward(const BlendJob& job, const void* grad, BlendSum sum, const BlendShare& part) {
  const T* g = (const T*)grad;
  T* values = (T*)sum.values;
  if (part.shares == 1) return add_rows<W, T, D>(job, g, values, sum.touched, part.begin, part.end);
  return add_share<W, T, D>(job, g, values, sum.touched, part);
}

template <class W, class T>
bool backward_any(const BlendJob& job, const void* grad, BlendSum sum, const BlendShare& part) {
  switch (job.d) {
    case 8: return backward<W, T, 8>(job, grad, sum, part);
    case 16: return backward<W, T, 16>(job, grad, sum, part);
    case 24: return backward<W, T, 24>(job, grad, sum, part);
    case 32: return backward<W, T, 32>(job, grad, sum, part);
    default: return backward<W, T, 0>(job, grad, sum, part);
  }
}

}  // namespace

bool blend_forward(const BlendJob& job, const void* features, void* out, int64_t begin, int64_t end) {
  switch (job.weight_type) {
    case WeightType::half: return forward<uint16_t, float>(job, (const float*)features, (float*)out, begin, end);
    case WeightType::single: return forward<float, float>(job, (const float*)features, (float*)out, begin, end);
    default: return forward<double, double>(job, (const double*)features, (double*)out, begin, end);
  }
}

bool blend_backward(const BlendJob& job, const void* grad, BlendSum sum, BlendShare part) {
  switch (job.weight_type) {
    case WeightType::half: return backward_any<uint16_t, float>(job, grad, sum, part);
    case WeightType::single: return backward_any<float, float>(job, grad, sum, part);
    default: return backward_any<double, double>(job, grad, sum, part);
  }
}

}  // namespace splatseg::SPLATSEG_ISA
