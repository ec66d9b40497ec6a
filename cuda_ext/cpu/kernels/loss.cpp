// The hierarchical contrastive loss and its gradient in one pass over blocks of samples that share an anchor patch.
// Mirrors splatseg/ops/reference/loss.py. Logits are kept in base 2: mean holds u log2(e) / phi.
//
// A block is 8 or 16 samples, one a lane. Three products share one register tile: logits = mean . f^, the gradient of
// f^ = G^T . mean and the gradient of the means = G . f^, with G (k, lanes) the gradient of the logits. Only the related
// patches of the anchor, sorted by level, take the path of the running max.
#include "cpu/loss.h"

#include "cpu/kernels/loss_tile.h"

namespace splatseg::SPLATSEG_ISA {
namespace {

constexpr double kLog2e = 1.4426950408889634, kLn2 = 0.6931471805599453;

// Row stride of unit, mean and their gradients; known where D is.
template <class T, int D>
constexpr int64_t row_of(const LossProblem<T>& p) {
  return D ? (D + kLanes - 1) / kLanes * kLanes : p.row;
}

// Lane r: the length of row r, less `from` where that is given. Lanes past the count repeat the last row.
template <class T>
SPLATSEG_INLINE Vec<T> lengths(const T* rows, int count, int64_t row, const T* from) {
  Vec<T> square[kLanes];
  for (int r = 0; r < kLanes; r++) {
    const T* at = rows + (r < count ? r : count - 1) * row;
    square[r] = splat(T(0));
    for (int64_t c = 0; c < row; c += kLanes) {
      const Vec<T> x = from ? load(at + c) - load(from + c) : load(at + c);
      square[r] += x * x;
    }
  }
  return sqrtv(hsum8(square));
}

// Samples from i on that one vector of lengths() takes.
SPLATSEG_INLINE int lanes_from(int64_t i, int64_t end) { return end - i < kLanes ? (int)(end - i) : kLanes; }

// f^ and norms of the samples begin..end of one patch, and their sum to `sum`.
template <class T, int D>
SPLATSEG_INLINE void normalize(const LossProblem<T>& p, int64_t begin, int64_t end, T* sum) {
  const int64_t row = row_of<T, D>(p), d = D ? D : p.d;
  for (int64_t i = begin; i < end; i += kLanes) {
    const int lanes = lanes_from(i, end);
    for (int r = 0; r < lanes; r++) {
      T* unit = p.unit + (i + r) * row;
      memset(unit + row - kLanes, 0, kLanes * sizeof(T));
      memcpy(unit, p.features + p.order[i + r] * d, d * sizeof(T));
    }
    T norm[kLanes], inverse[kLanes];
    const Vec<T> length = lengths(p.unit + i * row, lanes, row, (const T*)nullptr) + T(1e-6);
    store(norm, length);
    store(inverse, T(1) / length);
    for (int r = 0; r < lanes; r++) {
      T* unit = p.unit + (i + r) * row;
      p.norm[i + r] = norm[r];
      for (int64_t c = 0; c < row; c += kLanes) store(unit + c, load(unit + c) * splat(inverse[r]));
    }
  }
  for (int64_t c = 0; c < row; c += kLanes) {
    Vec<T> total = splat(T(0));
    for (int64_t i = begin; i < end; i++) total += load(p.unit + i * row + c);
    store(sum + c, load(sum + c) + total);
  }
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
  for (int64_t i = begin; i < end; i += kLanes) {
    const int lanes = lanes_from(i, end);
    const Vec<T> off = lengths(p.unit + i * row, lanes, row, (const T*)mean);
    for (int r = 0; r < lanes; r++) spread += off[r];
  }
  double phi = p.phi_scale * spread / (n * log(n + 10.0));
  if (phi < p.phi_min) phi = p.phi_min;
  if (phi > p.phi_max) phi = p.phi_max;
  p.phi[k] = (T)phi;
  const Vec<T> scale = splat((T)(kLog2e / phi));
  for (int64_t c = 0; c < row; c += kLanes) store(mean + c, load(mean + c) * scale);
}

// State of one block; z and e are (k, lanes).
template <class T, int V>
struct Block {
  static constexpr int kWidth = V * kLanes;
  int64_t anchor, begin;
  int lanes;           // samples; the rest of the lanes are padding
  T *z, *e, *ft, *sf;  // logits, their gradient, f^ transposed (row, lanes), f^ scaled (lanes, row)
  Vec<T> sum[V];       // of e: the softmax's denominator
  Vec<T> total[V];     // loss of each lane, base 2
  T weights;           // sum of decay^l over the anchor's levels
};

template <class T, int D, int R, int V>
SPLATSEG_INLINE void logits(const LossProblem<T>& p, Block<T, V>& b, int64_t k, Vec<T> (&top)[V]) {
  constexpr int W = Block<T, V>::kWidth;
  Vec<T> acc[R][V] = {};
  tile<T, R, V>(p.mean + k * p.row, p.row, 1, b.ft, W, D ? D : p.d, acc);
  for (int r = 0; r < R; r++) {
    for (int v = 0; v < V; v++) {
      store(b.z + (k + r) * W + v * kLanes, acc[r][v]);
      top[v] = vmax(acc[r][v], top[v]);
    }
  }
}

// (b1) z = mean . f^, e = 2^(z - max), sum.
template <class T, int D, int V>
void softmax(const LossProblem<T>& p, Block<T, V>& b, Vec<T> (&lse)[V]) {
  constexpr int W = Block<T, V>::kWidth;
  const int64_t d = D ? D : p.d;
  for (int lane = 0; lane < W; lane++) {
    const T* unit = p.unit + (b.begin + lane) * p.row;
    for (int64_t c = 0; c < d; c++) b.ft[c * W + lane] = lane < b.lanes ? unit[c] : T(0);
  }
  Vec<T> top[V];
  for (int v = 0; v < V; v++) top[v] = splat(lowest(T(0)));
  int64_t k = 0;
  for (; k + TileRows<V>::value <= p.k; k += TileRows<V>::value) logits<T, D, TileRows<V>::value, V>(p, b, k, top);
  for (; k < p.k; k++) logits<T, D, 1, V>(p, b, k, top);
  for (int v = 0; v < V; v++) b.sum[v] = splat(T(0));
  for (k = 0; k < p.k; k++) {
    for (int v = 0; v < V; v++) {
      const Vec<T> x = exp2v_near_zero(vmax(load(b.z + k * W + v * kLanes) - top[v], splat(T(-125))));
      store(b.e + k * W + v * kLanes, x);
      b.sum[v] += x;
    }
  }
  for (int v = 0; v < V; v++) lse[v] = top[v] + log2v(b.sum[v]);
}

// (b2) The levels: adds each term to total, and takes the terms' own weights out of e. e is in units in which the weights
// of an anchor sum to sum[v], so a weight w counts w sum / weights.
template <class T, int V>
void walk_levels(const LossProblem<T>& p, Block<T, V>& b, const Vec<T> (&lse)[V]) {
  constexpr int W = Block<T, V>::kWidth;
  const int32_t* related = p.levels.related + b.anchor * p.k;
  const int32_t* ends = p.levels.ends + b.anchor * p.k;
  Vec<T> running[V], next[V], unit[V];
  Mask<T> carrier[V], next_carrier[V];
  for (int v = 0; v < V; v++) {
    running[v] = next[v] = splat(lowest(T(0)));
    carrier[v] = next_carrier[v] = Mask<T>{};
    unit[v] = b.sum[v] / b.weights;
  }
  double decay = 1;
  for (int32_t level = 0, x = 0; level < p.levels.n_levels[b.anchor] && decay > 0; level++, decay *= p.level_decay) {
    const T weight = (T)(decay / (ends[level] - x));
    Mask<T> held[V] = {};  // minus the number of terms that the running max overrode
    for (; x < ends[level]; x++) {
      const int64_t at = (int64_t)related[x] * W;
      for (int v = 0; v < V; v++) {
        const Vec<T> nll = lse[v] - load(b.z + at + v * kLanes);
        const Mask<T> own = nll >= running[v];
        b.total[v] += weight * (own ? nll : running[v]);
        const Vec<T> e = load(b.e + at + v * kLanes);
        store(b.e + at + v * kLanes, own ? e - weight * unit[v] : e);
        held[v] += ~own;
        const Mask<T> larger = nll > next[v];
        next[v] = larger ? nll : next[v];
        next_carrier[v] = larger ? Mask<T>{} + related[x] : next_carrier[v];
      }
    }
    for (int v = 0; v < V; v++) {
      for (unsigned lanes = bits(held[v] != 0); lanes; lanes &= lanes - 1) {
        const int lane = __builtin_ctz(lanes);
        b.e[(int64_t)carrier[v][lane] * W + v * kLanes + lane] += weight * (T)held[v][lane] * unit[v][lane];
      }
      running[v] = next[v];
      carrier[v] = next_carrier[v];
    }
  }
}

template <class T, int R, int W>
SPLATSEG_INLINE void add_mean_grad(const T* e, const T* sf, int64_t row, T* mean_grad) {
  int64_t c = 0;
  for (; c + 2 * kLanes <= row; c += 2 * kLanes) add_tile<T, R, 2>(e, W, 1, sf + c, row, W, mean_grad + c, row);
  if (c < row) add_tile<T, R, 1>(e, W, 1, sf + c, row, W, mean_grad + c, row);
}

// (b3) Gradients of f^ (to unit_grad) and of the means (added to mean_grad).
template <class T, int D, int V>
void gradients(const LossProblem<T>& p, Block<T, V>& b, T* mean_grad) {
  constexpr int W = Block<T, V>::kWidth;
  const int64_t row = row_of<T, D>(p);
  T scale[W];
  for (int v = 0; v < V; v++) store(scale + v * kLanes, b.weights / b.sum[v]);
  for (int64_t c = 0; c < row; c += 4) {
    Vec<T> acc[4][V] = {};
    tile<T, 4, V>(p.mean + c, 1, row, b.e, W, p.k, acc);
    for (int r = 0; r < 4; r++) {
      for (int v = 0; v < V; v++) store(b.ft + (c + r) * W + v * kLanes, acc[r][v] * load(scale + v * kLanes) * T(kLn2));
    }
  }
  for (int lane = 0; lane < W; lane++) {
    const int64_t i = b.begin + lane;
    for (int64_t c = 0; c < row; c++) {
      b.sf[lane * row + c] = lane < b.lanes ? p.unit[i * row + c] * scale[lane] : T(0);
      if (lane < b.lanes) p.unit_grad[i * row + c] = b.ft[c * W + lane];
    }
  }
  int64_t k = 0;
  for (; k + 4 <= p.k; k += 4) add_mean_grad<T, 4, W>(b.e + k * W, b.sf, row, mean_grad + k * row);
  for (; k < p.k; k++) add_mean_grad<T, 1, W>(b.e + k * W, b.sf, row, mean_grad + k * row);
}

// (b) One block; returns its loss in base 2.
template <class T, int D, int V>
double block_loss(const LossProblem<T>& p, int64_t block, T* scratch, T* mean_grad) {
  Block<T, V> b;
  b.anchor = p.block_anchor[block];
  b.begin = p.block_begin[block];
  const int64_t left = p.start[b.anchor + 1] - b.begin;
  b.lanes = (int)(left < kBlockLanes ? left : kBlockLanes);
  b.z = scratch;
  b.e = b.z + p.k * kBlockLanes;
  b.ft = b.e + p.k * kBlockLanes;
  b.sf = b.ft + p.row * kBlockLanes;
  double weights = 0, decay = 1;
  for (int32_t level = 0; level < p.levels.n_levels[b.anchor]; level++, decay *= p.level_decay) weights += decay;
  b.weights = (T)weights;
  if (weights == 0) {  // the anchor lies in no mask: it has no level, and its samples no term
    if (p.with_grad) memset(p.unit_grad + b.begin * p.row, 0, b.lanes * p.row * sizeof(T));
    return 0;
  }
  Vec<T> lse[V];
  for (int v = 0; v < V; v++) b.total[v] = splat(T(0));
  softmax<T, D, V>(p, b, lse);
  walk_levels(p, b, lse);
  if (p.with_grad) gradients<T, D, V>(p, b, mean_grad);
  double loss = 0;
  for (int lane = 0; lane < b.lanes; lane++) loss += b.total[lane / kLanes][lane % kLanes];
  return loss;
}

template <class T, int D>
void chunk_loss(const LossProblem<T>& p, int64_t chunk, T* scratch) {
  T* mean_grad = p.mean_grad + (p.with_grad ? chunk * p.k * p.row : 0);
  if (p.with_grad) memset(mean_grad, 0, p.k * p.row * sizeof(T));
  double loss = 0;
  for (int64_t i = p.blocks * chunk / p.chunks; i < p.blocks * (chunk + 1) / p.chunks; i++) {
    const bool narrow = p.start[p.block_anchor[i] + 1] - p.block_begin[i] <= kLanes;
    loss += narrow ? block_loss<T, D, 1>(p, i, scratch, mean_grad) : block_loss<T, D, 2>(p, i, scratch, mean_grad);
  }
  p.chunk_loss[chunk] = loss;
}

// (c) The means' gradient, summed over chunks in order, joins each sample's own; through the detached norm; to the input's
// order. One patch.
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
    T* unit_grad = p.unit_grad + i * row;
    const Vec<T> inverse = splat(1 / p.norm[i]);
    for (int64_t c = 0; c < row; c += kLanes) {
      store(unit_grad + c, (load(unit_grad + c) * splat((T)p.weight) + load(through_mean + c)) * inverse);
    }
    memcpy(p.grad + p.order[i] * d, unit_grad, d * sizeof(T));
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
