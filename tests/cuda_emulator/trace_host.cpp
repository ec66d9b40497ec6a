// The CUDA kernels of trace_tiles, on the host emulator, behind C functions.
#include "cuda/trace_kernels.cuh"

using namespace splatseg::cuda;

namespace {

TraceTask task(const float* const* floats, const int* const* ints, const int* sizes, double min_weight) {
  TraceTask t{};
  t.rows = sizes[0];
  t.columns = sizes[1];
  t.tiles = sizes[2];
  t.entries = sizes[3];
  t.n = sizes[4];
  t.min_weight = (float)min_weight;
  t.means2d = floats[0];
  t.conics = floats[1];
  t.opacities = floats[2];
  t.tile_offsets = ints[0];
  t.list = ints[1];
  t.pixels = ints[2];
  return t;
}

}  // namespace

// Fills offsets (rows + 1,), summed up; returns the number of entries.
extern "C" int64_t trace_count(const float* const* floats, const int* const* ints, const int* sizes, double min_weight,
                               int64_t* offsets) {
  TraceTask t = task(floats, ints, sizes, min_weight);
  t.offsets = offsets;
  launch_count(t, Stream());
  for (int row = 0; row < t.rows; row++) offsets[row + 1] += offsets[row];
  return offsets[t.rows];
}

extern "C" void trace_fill(const float* const* floats, const int* const* ints, const int* sizes, double min_weight,
                           int64_t* offsets, int* ids, float* weights) {
  TraceTask t = task(floats, ints, sizes, min_weight);
  t.offsets = offsets;
  t.ids = ids;
  t.weights = weights;
  launch_fill(t, Stream());
}
