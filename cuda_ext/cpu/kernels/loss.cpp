// The hierarchical contrastive loss and its gradient in one pass over blocks of samples sorted by patch.
// Mirrors splatseg/ops/reference/loss.py. Logits are kept in base 2: mean holds u log2(e) / phi.
//
// A block is 16 samples, one a lane, of one patch or of several. Three products share one register tile: logits =
// mean . f^, the gradient of f^ = G^T . mean and the gradient of the means = G . f^, with G (k, lanes) the gradient of the
// logits. They need not know the lanes' anchors. The path of the running max does: each anchor of the block takes it for
// its own lanes, over its related patches alone, sorted by level.
#include "cpu/loss.h"

#include "cpu/kernels/loss_tile.h"

namespace splatseg::SPLATSEG_ISA {
namespace {

constexpr double kLog2e = 1.4426950408889634, kLn2 = 0.6931471805599453;
constexpr int kVectors = (int)kBlockLanes / kLanes;
constexpr int64_t kAhead = 24;  // samples between asking for a row and using it

// Row stride of unit, mean and their gradients; known where D is.
template <class T, int D>
constexpr int64_t row_of(const LossProblem<T>& p) {
  return D ? (D + kLanes - 1) / kLanes * kLanes : p.row;
}

// Samples from i on that one vector takes.
SPLATSEG_INLINE int lanes_from(int64_t i, int64_t end) { return end - i < kLanes ? (int)(end - i) : kLanes; }

// Lane r: the length of rows[r], less `from` where that is given.
template <class T>
SPLATSEG_INLINE Vec<T> lengths(const T* const (&rows)[kLanes], int64_t row, const T* from) {
  Vec<T> square[kLanes];
  for (int r = 0; r < kLanes; r++) {
    square[r] = splat(T(0));
    for (int64_t c = 0; c < row; c += kLanes) {
      const Vec<T> x = from ? load(rows[r] + c) - load(from + c) : load(rows[r] + c);
      square[r] += x * x;
    }
  }
  return sqrtv(hsum8(square));
}

// Asks for the row of kept sample i in `rows`, (any, d) in the order given: neighbors in a patch are far apart there, so
// only this hides the way to it. Rows past the last sample are nobody's.
template <class T, int D, bool WRITE>
SPLATSEG_INLINE void prefetch_row(const LossProblem<T>& p, const T* rows, int64_t i) {
  constexpr int64_t kLine = 64 / sizeof(T);
  const int64_t d = D ? D : p.d;
  if (i >= p.n) return;
  for (int64_t c = 0; c < d; c += kLine) __builtin_prefetch(rows + p.order[i] * d + c, WRITE);
}

// Features of kept sample i, a whole number of vectors: as given, or padded with zeros in its row of `unit`.
template <class T, int D>
SPLATSEG_INLINE const T* padded_row(const LossProblem<T>& p, int64_t i) {
  const int64_t row = row_of<T, D>(p), d = D ? D : p.d;
  const T* given = p.features + p.order[i] * d;
  if (D && D % kLanes == 0) return given;
  T* unit = p.unit + i * row;
  memset(unit + row - kLanes, 0, kLanes * sizeof(T));
  memcpy(unit, given, d * sizeof(T));
  return unit;
}

// f^ and 1 / norm of the samples begin..end of one patch, and the sum of f^ to `sum`.
template <class T, int D>
SPLATSEG_INLINE void normalize(const LossProblem<T>& p, int64_t begin, int64_t end, T* sum) {
  const int64_t row = row_of<T, D>(p);
  for (int64_t i = begin; i < end; i += kLanes) {
    const int lanes = lanes_from(i, end);
    const T* given[kLanes];
    for (int r = 0; r < kLanes; r++) prefetch_row<T, D, false>(p, p.features, i + r + kAhead);
    for (int r = 0; r < kLanes; r++) given[r] = padded_row<T, D>(p, r < lanes ? i + r : i);
    T inverse[kLanes];
    store(inverse, T(1) / (lengths(given, row, (const T*)nullptr) + T(1e-6)));
    for (int r = 0; r < lanes; r++) {
      p.inverse_norm[i + r] = inverse[r];
      for (int64_t c = 0; c < row; c += kLanes) store(p.unit + (i + r) * row + c, load(given[r] + c) * splat(inverse[r]));
    }
  }
  for (int64_t c = 0; c < row; c += kLanes) {
    Vec<T> total[4] = {};  // from `begin`, so that patches of equal features have equal means
    for (int64_t i = 0; i < end - begin; i++) total[i & 3] += load(p.unit + (begin + i) * row + c);
    store(sum + c, load(sum + c) + ((total[0] + total[1]) + (total[2] + total[3])));
  }
}

// Sum of |f^ - mean| over the samples begin..end of one patch.
template <class T, int D>
SPLATSEG_INLINE T deviation(const LossProblem<T>& p, int64_t begin, int64_t end, const T* mean) {
  const int64_t row = row_of<T, D>(p);
  Vec<T> total = splat(T(0));
  for (int64_t i = begin; i < end; i += kLanes) {
    const int lanes = lanes_from(i, end);
    const T* unit[kLanes];
    for (int r = 0; r < kLanes; r++) unit[r] = p.unit + (r < lanes ? i + r : i) * row;
    total += keep(lanes_below<T>(lanes), lengths(unit, row, mean));
  }
  return hsum(total);
}

// (a) f^, norms, means and phi of one patch. Sums run over groups of 64 samples first: error grows with n / 64 + 64, not n.
template <class T, int D>
void patch_statistics(const LossProblem<T>& p, int64_t k) {
  constexpr int64_t kGroup = 64;
  const int64_t begin = p.start[k], end = p.start[k + 1], n = end - begin, row = row_of<T, D>(p);
  T* mean = p.mean + k * row;
  memset(mean, 0, row * sizeof(T));
  for (int64_t i = begin; i < end; i += kGroup) normalize<T, D>(p, i, i + kGroup < end ? i + kGroup : end, mean);
  for (int64_t c = 0; c < row; c += kLanes) store(mean + c, load(mean + c) * splat(T(1) / (T)n));
  double spread = 0;
  for (int64_t i = begin; i < end; i += kGroup) spread += deviation<T, D>(p, i, i + kGroup < end ? i + kGroup : end, mean);
  double phi = p.phi_scale * spread / (n * log(n + 10.0));
  if (phi < p.phi_min) phi = p.phi_min;
  if (phi > p.phi_max) phi = p.phi_max;
  p.phi[k] = (T)phi;
  const Vec<T> scale = splat((T)(kLog2e / phi));
  for (int64_t c = 0; c < row; c += kLanes) store(mean + c, load(mean + c) * scale);
}

// State of one block; z and e are (k, kBlockLanes).
template <class T>
struct Block {
  int64_t begin, anchor;  // first sample and its patch
  int lanes;              // samples; the rest of the lanes are padding
  T *z, *e, *ft, *sf;     // logits, their gradient, f^ transposed (row, kBlockLanes), f^ scaled (kBlockLanes, row)
  Vec<T> sum[kVectors];   // of e: the softmax's denominator
  Vec<T> lse[kVectors];   // log2 of the sum of 2^z
  Vec<T> total[kVectors]; // loss of each lane, base 2
  T weights[kBlockLanes]; // sum of decay^l over the levels of the lane's anchor
};

template <class T, int D, int R>
SPLATSEG_INLINE void logits(const LossProblem<T>& p, Block<T>& b, int64_t k, Vec<T> (&top)[kVectors]) {
  Vec<T> acc[R][kVectors] = {};
  tile<T, R, kVectors>(p.mean + k * p.row, p.row, 1, b.ft, kBlockLanes, D ? D : p.d, acc);
  for (int r = 0; r < R; r++) {
    for (int v = 0; v < kVectors; v++) {
      store(b.z + (k + r) * kBlockLanes + v * kLanes, acc[r][v]);
      top[v] = vmax(acc[r][v], top[v]);
    }
  }
}

// (b1) z = mean . f^, e = 2^(z - max), sum and lse.
template <class T, int D>
void softmax(const LossProblem<T>& p, Block<T>& b) {
  const int64_t row = row_of<T, D>(p);
  for (int v = 0; v < kVectors; v++) {
    for (int64_t c = 0; c < row; c += kLanes) {
      Vec<T> unit[kLanes];
      for (int r = 0; r < kLanes; r++) {
        const int lane = v * kLanes + r;
        unit[r] = lane < b.lanes ? load(p.unit + (b.begin + lane) * row + c) : splat(T(0));
      }
      transpose8(unit);
      for (int r = 0; r < kLanes; r++) store(b.ft + (c + r) * kBlockLanes + v * kLanes, unit[r]);
    }
  }
  Vec<T> top[kVectors];
  for (int v = 0; v < kVectors; v++) top[v] = splat(lowest(T(0)));
  int64_t k = 0;
  for (; k + kTileRows <= p.k; k += kTileRows) logits<T, D, kTileRows>(p, b, k, top);
  for (; k < p.k; k++) logits<T, D, 1>(p, b, k, top);
  for (int v = 0; v < kVectors; v++) b.sum[v] = splat(T(0));
  for (k = 0; k < p.k; k++) {
    for (int v = 0; v < kVectors; v++) {
      const int64_t at = k * kBlockLanes + v * kLanes;
      const Vec<T> x = exp2v_near_zero(vmax(load(b.z + at) - top[v], splat(T(-125))));
      store(b.e + at, x);
      b.sum[v] += x;
    }
  }
  for (int v = 0; v < kVectors; v++) b.lse[v] = top[v] + log2v(b.sum[v]);
}

// (b2) The levels of one anchor, for its lanes [first, last) of the block, which lie in V vectors from vector `from` on:
// adds each term to total, and takes the terms' own weights out of e. e is in units in which the weights of an anchor sum
// to sum[v], so a weight w counts w sum / weights.
template <class T, int V>
void walk_levels(const LossProblem<T>& p, Block<T>& b, int64_t anchor, int first, int last, int from) {
  const int32_t* related = p.levels.related + anchor * p.k;
  const int32_t* ends = p.levels.ends + anchor * p.k;
  T *z = b.z + from * kLanes, *e = b.e + from * kLanes;
  Vec<T> running[V], next[V], unit[V], lse[V], total[V];
  Mask<T> carrier[V], next_carrier[V], mine[V];
  for (int v = 0; v < V; v++) {
    running[v] = next[v] = splat(lowest(T(0)));
    carrier[v] = next_carrier[v] = Mask<T>{};
    unit[v] = b.sum[from + v] / b.weights[first];
    lse[v] = b.lse[from + v];
    total[v] = splat(T(0));
    mine[v] = lanes_below<T>(last - (from + v) * kLanes) & ~lanes_below<T>(first - (from + v) * kLanes);
  }
  double decay = 1;
  for (int32_t level = 0, x = 0; level < p.levels.n_levels[anchor] && decay > 0; level++, decay *= p.level_decay) {
    const T weight = (T)(decay / (ends[level] - x));
    Mask<T> held[V] = {};  // minus the number of terms that the running max overrode
    for (; x < ends[level]; x++) {
      const int64_t at = (int64_t)related[x] * kBlockLanes;
      for (int v = 0; v < V; v++) {
        const Vec<T> nll = lse[v] - load(z + at + v * kLanes);
        const Mask<T> own = nll >= running[v];
        total[v] += weight * (own ? nll : running[v]);
        store(e + at + v * kLanes, load(e + at + v * kLanes) - keep(own & mine[v], weight * unit[v]));
        held[v] += ~own;
        const Mask<T> larger = nll > next[v];
        next[v] = larger ? nll : next[v];
        next_carrier[v] = larger ? Mask<T>{} + related[x] : next_carrier[v];
      }
    }
    for (int v = 0; v < V; v++) {
      for (unsigned lanes = bits((held[v] != 0) & mine[v]); lanes; lanes &= lanes - 1) {
        const int lane = __builtin_ctz(lanes);
        e[(int64_t)carrier[v][lane] * kBlockLanes + v * kLanes + lane] += weight * (T)held[v][lane] * unit[v][lane];
      }
      running[v] = next[v];
      carrier[v] = next_carrier[v];
    }
  }
  for (int v = 0; v < V; v++) b.total[from + v] += keep(mine[v], total[v]);
}

// Every anchor of the block. One that lies in no mask has no level, and its samples no term.
template <class T>
void walk_anchors(const LossProblem<T>& p, Block<T>& b) {
  for (int v = 0; v < kVectors; v++) b.total[v] = splat(T(0));
  int64_t anchor = b.anchor;
  for (int first = 0, last; first < b.lanes; first = last, anchor++) {
    const int64_t end = p.start[anchor + 1] - b.begin;
    last = end < b.lanes ? (int)end : b.lanes;
    double weights = 0, decay = 1;
    for (int32_t level = 0; level < p.levels.n_levels[anchor]; level++, decay *= p.level_decay) weights += decay;
    for (int lane = first; lane < last; lane++) b.weights[lane] = (T)weights;
    if (weights == 0) continue;
    if (first < kLanes && last > kLanes) {
      walk_levels<T, kVectors>(p, b, anchor, first, last, 0);
    } else {
      walk_levels<T, 1>(p, b, anchor, first, last, first / kLanes);
    }
  }
  for (int lane = b.lanes; lane < kBlockLanes; lane++) b.weights[lane] = 0;
}

// (b3) Gradients of f^, through the detached norm to the input's, and of the means (added to mean_grad).
template <class T, int D>
void gradients(const LossProblem<T>& p, Block<T>& b, T* mean_grad) {
  constexpr int64_t W = kBlockLanes;
  const int64_t row = row_of<T, D>(p), d = D ? D : p.d;
  T scale[W], to_input[W];
  for (int v = 0; v < kVectors; v++) store(scale + v * kLanes, load(b.weights + v * kLanes) / b.sum[v]);
  for (int lane = 0; lane < W; lane++) {
    const int64_t i = b.begin + (lane < b.lanes ? lane : 0);
    to_input[lane] = scale[lane] * p.inverse_norm[i] * (T)(kLn2 * p.weight);
    for (int64_t c = 0; c < row; c += kLanes) store(b.sf + lane * row + c, load(p.unit + i * row + c) * splat(scale[lane]));
  }
  for (int64_t c = 0; c < row; c += 4) {
    Vec<T> acc[4][kVectors] = {};
    tile<T, 4, kVectors>(p.mean + c, 1, row, b.e, W, p.k, acc);
    for (int r = 0; r < 4; r++) {
      for (int v = 0; v < kVectors; v++) {
        store(b.ft + (c + r) * W + v * kLanes, acc[r][v] * load(to_input + v * kLanes));
      }
    }
  }
  for (int v = 0; v < kVectors; v++) {
    for (int64_t c = 0; c < row; c += kLanes) {
      Vec<T> grad[kLanes];
      for (int r = 0; r < kLanes; r++) grad[r] = load(b.ft + (c + r) * W + v * kLanes);
      transpose8(grad);
      for (int lane = v * kLanes; lane < b.lanes && lane < (v + 1) * kLanes; lane++) {
        store_part(p.grad + p.order[b.begin + lane] * d + c, grad[lane - v * kLanes], d - c);
      }
    }
  }
  int64_t k = 0;
  for (; k + 4 <= p.k; k += 4) add_mean_grad<T, 4>(b.e + k * W, b.sf, row, mean_grad + k * row);
  for (; k < p.k; k++) add_mean_grad<T, 1>(b.e + k * W, b.sf, row, mean_grad + k * row);
}

// (b) One block; returns its loss in base 2.
template <class T, int D>
double block_loss(const LossProblem<T>& p, Block<T>& b, T* mean_grad) {
  softmax<T, D>(p, b);
  walk_anchors(p, b);
  if (p.with_grad) gradients<T, D>(p, b, mean_grad);
  double loss = 0;
  for (int lane = 0; lane < b.lanes; lane++) loss += b.total[lane / kLanes][lane % kLanes];
  return loss;
}

template <class T, int D>
void chunk_loss(const LossProblem<T>& p, int64_t chunk, T* scratch) {
  T* mean_grad = p.mean_grad + (p.with_grad ? chunk * p.k * p.row : 0);
  if (p.with_grad) memset(mean_grad, 0, p.k * p.row * sizeof(T));
  Block<T> b;
  b.anchor = 0;
  b.z = scratch;
  b.e = b.z + p.k * kBlockLanes;
  b.ft = b.e + p.k * kBlockLanes;
  b.sf = b.ft + p.row * kBlockLanes;
  double loss = 0;
  for (int64_t i = p.blocks * chunk / p.chunks; i < p.blocks * (chunk + 1) / p.chunks; i++) {
    b.begin = i * kBlockLanes;
    b.lanes = (int)(p.n - b.begin < kBlockLanes ? p.n - b.begin : kBlockLanes);
    while (p.start[b.anchor + 1] <= b.begin) b.anchor++;
    loss += block_loss<T, D>(p, b, mean_grad);
  }
  p.chunk_loss[chunk] = loss;
}

// (c) The means' gradient, summed over chunks in order, joins each sample's own. One patch.
template <class T, int D>
void scatter_gradient(const LossProblem<T>& p, int64_t k) {
  const int64_t begin = p.start[k], end = p.start[k + 1], row = row_of<T, D>(p), d = D ? D : p.d;
  T* through_mean = p.mean + k * row;  // the mean is not needed any more
  const Vec<T> scale = splat((T)(p.weight / ((double)p.phi[k] * (end - begin))));
  for (int64_t c = 0; c < row; c += kLanes) {
    Vec<T> sum = splat(T(0));
    for (int64_t chunk = 0; chunk < p.chunks; chunk++) sum += load(p.mean_grad + (chunk * p.k + k) * row + c);
    store(through_mean + c, sum * scale);
  }
  for (int64_t i = begin; i < end; i++) {
    prefetch_row<T, D, true>(p, p.grad, i + kAhead);
    T* grad = p.grad + p.order[i] * d;
    for (int64_t c = 0; c < d; c += kLanes) {
      const Vec<T> own = load_part(grad + c, d - c);
      store_part(grad + c, own + load(through_mean + c) * splat(p.inverse_norm[i]), d - c);
    }
  }
}

template <class T>
double poisoned(const LossProblem<T>& p) {
  for (int64_t i = 0; p.with_grad && i < p.n; i++) {
    for (int64_t c = 0; c < p.d; c++) p.grad[p.order[i] * p.d + c] = (T)NAN;
  }
  return NAN;
}

template <class T, int D>
double run(const LossProblem<T>& p) {
#pragma omp parallel for schedule(dynamic, 1) num_threads(p.threads)
  for (int64_t k = 0; k < p.k; k++) patch_statistics<T, D>(p, k);
  for (int64_t k = 0; k < p.k; k++) {
    if (!(p.phi[k] == p.phi[k])) return poisoned(p);
  }
#pragma omp parallel for schedule(dynamic, 1) num_threads(p.threads)
  for (int64_t chunk = 0; chunk < p.chunks; chunk++) {
    chunk_loss<T, D>(p, chunk, p.lanes + thread_number() * lane_scratch(p.k, p.row));
  }
  double loss = 0;
  for (int64_t chunk = 0; chunk < p.chunks; chunk++) loss += p.chunk_loss[chunk];
  if (p.with_grad) {
#pragma omp parallel for schedule(dynamic, 1) num_threads(p.threads)
    for (int64_t k = 0; k < p.k; k++) scatter_gradient<T, D>(p, k);
  }
  return loss * kLn2 * p.weight;
}

}  // namespace

double contrastive_loss(const LossProblem<float>& p) {
  switch (p.d) {
    case 4: return run<float, 4>(p);
    case 8: return run<float, 8>(p);
    case 16: return run<float, 16>(p);
    case 32: return run<float, 32>(p);
    case 64: return run<float, 64>(p);
    default: return run<float, 0>(p);
  }
}
double contrastive_loss(const LossProblem<double>& p) { return run<double, 0>(p); }

}  // namespace splatseg::SPLATSEG_ISA
