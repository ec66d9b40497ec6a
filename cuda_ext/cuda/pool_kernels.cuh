// What a replayed step of the feature fit needs beside blend, loss and Adam: which pixels it takes, and where it left off.
// Mirrors splatseg/ops/reference/replay.py. All of it is read from device memory, so that one captured graph serves every
// step.
#pragma once
#include "cuda/adam_kernels.cuh"

namespace splatseg::cuda {

constexpr int kPoolThreads = 256;

struct PoolTask {
  int64_t batch, steps, views, rows, words;  // words: of one view's membership, all patches together
  int64_t empty_row;                         // a CSR row without entries
  const int64_t* step;        // () number of the step
  const int* schedule;        // (steps, 2) view, and first of its shuffled rows
  const double* rates;        // (steps, 2) as AdamScalars
  const int64_t* view_start;  // (views + 1,) first of each view's rows
  const int64_t* shuffled;    // (rows,) CSR rows of each view, in random order
  const int* patch;           // (rows,) patch of each
  const int64_t* membership;  // (views, words)
  int64_t* out_rows;          // (batch,) empty_row where the view has fewer
  int* out_patch;             // (batch,) 0 there
  int64_t* out_membership;    // (words,)
  double* out_rates;          // (2,)
};

__global__ inline void draw_pool_batch(PoolTask t) {
  const int64_t step = *t.step, i = (int64_t)blockIdx.x * kPoolThreads + threadIdx.x;
  if (step < 0 || step >= t.steps) return;
  const int view = t.schedule[2 * step];
  const int64_t start = t.view_start[view], count = t.view_start[view + 1] - start;
  if (i < t.batch) {
    const bool real = i < count;
    const int64_t at = real ? start + (t.schedule[2 * step + 1] + i) % count : 0;
    t.out_rows[i] = real ? t.shuffled[at] : t.empty_row;
    t.out_patch[i] = real ? t.patch[at] : 0;
  }
  if (i < t.words) t.out_membership[i] = t.membership[view * t.words + i];
  if (i < 2) t.out_rates[i] = t.rates[2 * step + i];
}

template <class T>
struct AdvanceTask {
  int64_t steps;
  int64_t* step;
  const T* loss;
  T* losses;  // (steps,)
};

template <class T>
__global__ void advance_step(AdvanceTask<T> t) {
  const int64_t step = *t.step;
  if (step >= 0 && step < t.steps) t.losses[step] = *t.loss;
  *t.step = step + 1;
}

inline void launch_draw(const PoolTask& t, const Stream& stream) {
  const int64_t threads = t.batch > t.words ? t.batch : t.words;
  stream.launch(draw_pool_batch, ((threads > 2 ? threads : 2) + kPoolThreads - 1) / kPoolThreads, kPoolThreads, 0, t);
}
template <class T>
void launch_advance(const AdvanceTask<T>& t, const Stream& stream) {
  stream.launch(advance_step<T>, 1, 1, 0, t);
}

#ifdef SPLATSEG_INSTANTIATE  // for compile_check.py
template void launch_advance<float>(const AdvanceTask<float>&, const Stream&);
template void launch_advance<double>(const AdvanceTask<double>&, const Stream&);
#endif

}  // namespace splatseg::cuda
