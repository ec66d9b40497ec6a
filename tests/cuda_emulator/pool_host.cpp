// The CUDA kernels of a replayed step up to its gradient, on the host emulator, behind C functions.
#include "cuda/pool_kernels.cuh"

using namespace splatseg::cuda;

namespace {

// Memory filled with NaN bytes, so that what a kernel reads before it is written shows.
struct Memory {
  std::vector<char> bytes;
  char* base;

  explicit Memory(int64_t size) : bytes(size + 256, (char)0xff), base(bytes.data() + 255) {
    base -= reinterpret_cast<uintptr_t>(base) % 256;
  }
};

// Which samples batches have, as pool_cuda.cu sets it. sizes: rows of the largest batch, patches, words, min_pixels, batches,
// views.
template <class T>
LossTask<T> task_of(const int64_t* sizes, const int* patch, const int64_t* membership, double level_decay) {
  LossTask<T> t{};
  t.n = (int)sizes[0];
  t.patches = (int)sizes[1];
  t.words = (int)sizes[2];
  t.min_pixels = (int)sizes[3];
  t.sorted = true;
  t.level_decay = level_decay;
  t.patch = patch;
  t.membership = membership;
  lay_out_tables(t);
  return t;
}

// sizes: the six above, steps, rows and entries of the contributions, n, d, whether tables are prepared, deterministic. in:
// schedule, batch_start, view, offsets, ids, weights, patch, membership, features. scalars as LossConfig has them.
template <class T, class W, class Sum>
void run(const int64_t* sizes, const void* const* in, char* tables, const double* scalars, int64_t* cells, T* grad,
         T* losses) {
  PooledTask<T, W> t{};
  t.loss = task_of<T>(sizes, static_cast<const int*>(in[6]), static_cast<const int64_t*>(in[7]), scalars[3]);
  t.loss.d = (int)sizes[10];
  t.loss.with_grad = true;
  t.loss.phi_min = scalars[0];
  t.loss.phi_max = scalars[1];
  t.loss.phi_scale = scalars[2];
  t.loss.weight = scalars[4];
  t.loss.grad = grad;
  t.loss.tables = tables;
  t.loss.pool = {sizes[6], sizes[4], sizes[5], cells, static_cast<const int*>(in[0]), static_cast<const int64_t*>(in[1]),
                 static_cast<const int*>(in[2]), losses, sizes[11] != 0};
  t.blend.csr_rows = sizes[7];
  t.blend.entries = sizes[8];
  t.blend.n = sizes[9];
  t.blend.d = sizes[10];
  t.blend.offsets = static_cast<const int64_t*>(in[3]);
  t.blend.ids = static_cast<const int*>(in[4]);
  t.blend.weights = static_cast<const W*>(in[5]);
  t.blend.matrix = static_cast<const T*>(in[8]);
  int64_t cleared = 0;
  Memory memory(lay_out(t.loss, nullptr, cleared, kTileParts));
  lay_out(t.loss, memory.base, cleared, kTileParts);
  launch_pooled_loss<T, W, Sum>(t, cleared, Stream());
}

template <class T, class W>
void run_either(const int64_t* sizes, const void* const* in, char* tables, const double* scalars, int64_t* cells,
                void* grad, void* losses) {
  const auto run_with = [&](auto sum) {
    run<T, W, decltype(sum)>(sizes, in, tables, scalars, cells, static_cast<T*>(grad), static_cast<T*>(losses));
  };
  if (sizes[12]) run_with(ExactSum<T>());
  else run_with(FastSum<T>());
}

}  // namespace

// Bytes of one batch's tables.
extern "C" int64_t table_bytes(const int64_t* sizes) { return task_of<float>(sizes, nullptr, nullptr, 0).at.bytes; }

// The tables of one batch of n samples.
extern "C" void make_tables(const int64_t* sizes, int64_t n, const int* patch, const int64_t* membership, double level_decay,
                            char* tables) {
  auto t = task_of<float>(sizes, patch, membership, level_decay);
  int64_t cleared = 0;
  Memory memory(lay_out(t, nullptr, cleared));
  lay_out(t, memory.base, cleared);
  t.n = (int)n;
  t.tables = tables;
  launch_tables(t, cleared, Stream());
}

// types: 0 float beside float weights, 1 float beside half, 2 double.
extern "C" void pooled_loss_any(int types, const int64_t* sizes, const void* const* in, char* tables, const double* scalars,
                                int64_t* cells, void* grad, void* losses) {
  if (types == 0) run_either<float, float>(sizes, in, tables, scalars, cells, grad, losses);
  if (types == 1) run_either<float, Half>(sizes, in, tables, scalars, cells, grad, losses);
  if (types == 2) run_either<double, double>(sizes, in, tables, scalars, cells, grad, losses);
}
