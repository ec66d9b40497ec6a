// The nearest points to places in space. ATen-free. The specification is splatseg/ops/reference/nearest.py: squares of
// differences are added x, y, z in float64, and of points equally near the one of the lowest number comes first, so that the
// answer has the same bits whatever the tree and the number of threads.
#pragma once

#include <cstdint>

namespace splatseg {

// ids and distances (m, count), nearest first, of the `count` of points (n, 3), 1 <= count <= n, that are nearest to each of
// places (m, 3). places nullptr: to the points themselves, m = n, each of them with itself left out if `others`, and then
// count < n. All coordinates are finite. T is float or double.
template <class T>
struct NearestArgs {
  const T* points;
  int64_t n;
  const T* places;
  int64_t m, count;
  bool others;
  int threads;
};

template <class T>
void nearest_points(const NearestArgs<T>& args, int32_t* ids, float* distances);

}  // namespace splatseg
