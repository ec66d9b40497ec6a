// The baseline of benchmarks/rasterize.py: gsplat's CUDA blending loops written as plain C++, one pixel after another, over
// the same tile lists. Compiled by the benchmark with the host's flags; not part of the package.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace {

constexpr int kTile = 16;

struct Scene {
  int width, height, channels;
  const float *means2d, *conics, *opacities, *colors;  // (n, 2), (n, 3), (n,), (n, channels)
  const int32_t *offsets, *ids;
};

// alpha of Gaussian g at a pixel center, or 0 where it is skipped; sets the offset and exp(-sigma).
inline float alpha_at(const Scene& s, int g, float px, float py, float& dx, float& dy, float& visible) {
  dx = s.means2d[2 * g] - px;
  dy = s.means2d[2 * g + 1] - py;
  const float* c = s.conics + 3 * g;
  const float sigma = 0.5f * (c[0] * dx * dx + c[2] * dy * dy) + c[1] * dx * dy;
  visible = std::exp(-sigma);
  const float alpha = std::min(0.999f, s.opacities[g] * visible);
  return sigma < 0.f || alpha < 1.f / 255.f ? 0.f : alpha;
}

template <class Visit>
void for_pixels(const Scene& s, int threads, Visit visit) {
  const int columns = (s.width + kTile - 1) / kTile, tiles = columns * ((s.height + kTile - 1) / kTile);
#pragma omp parallel for schedule(dynamic, 2) num_threads(threads)
  for (int t = 0; t < tiles; t++)
    for (int y = t / columns * kTile; y < std::min(s.height, t / columns * kTile + kTile); y++)
      for (int x = t % columns * kTile; x < std::min(s.width, t % columns * kTile + kTile); x++) visit(t, x, y);
}

}  // namespace

// image (height, width, channels), transmittance (height, width), last (height, width): list index after the last splat
// drawn. Returns the number of (pixel, Gaussian) contributions.
extern "C" int64_t scalar_forward(const Scene* scene, int threads, float* image, float* transmittance, int32_t* last) {
  const Scene& s = *scene;
  std::vector<int64_t> counts(size_t(s.height) * s.width, 0);
  for_pixels(s, threads, [&](int t, int x, int y) {
    const size_t p = size_t(y) * s.width + x;
    float* out = image + p * s.channels;
    std::fill(out, out + s.channels, 0.f);
    float T = 1.f, dx, dy, visible;
    last[p] = s.offsets[t];
    for (int k = s.offsets[t]; k < s.offsets[t + 1]; k++) {
      const int g = s.ids[k];
      const float alpha = alpha_at(s, g, x + 0.5f, y + 0.5f, dx, dy, visible);
      if (alpha == 0.f) continue;
      const float next = T * (1.f - alpha);
      if (next <= 1e-4f) break;
      for (int c = 0; c < s.channels; c++) out[c] += s.colors[size_t(g) * s.channels + c] * alpha * T;
      T = next;
      last[p] = k + 1;
      counts[p]++;
    }
    transmittance[p] = T;
  });
  int64_t total = 0;
  for (int64_t count : counts) total += count;
  return total;
}

// Back to front as gsplat. Gradients (n, 2 + 3 + 1 + channels): means2d, conics, opacity, colors; added, so zero them first.
extern "C" void scalar_backward(const Scene* scene, int threads, const float* transmittance, const int32_t* last,
                                const float* grad, float* grads) {
  const Scene& s = *scene;
  const int row = 6 + s.channels;
  for_pixels(s, threads, [&](int t, int x, int y) {
    const size_t p = size_t(y) * s.width + x;
    const float* v = grad + p * s.channels;
    float T = transmittance[p], dx, dy, visible;
    float behind[64] = {};
    for (int k = last[p] - 1; k >= s.offsets[t]; k--) {
      const int g = s.ids[k];
      const float alpha = alpha_at(s, g, x + 0.5f, y + 0.5f, dx, dy, visible);
      if (alpha == 0.f) continue;
      const float ra = 1.f / (1.f - alpha);
      T *= ra;
      float v_alpha = 0.f;
      float* out = grads + size_t(g) * row;
      for (int c = 0; c < s.channels; c++) {
        const float color = s.colors[size_t(g) * s.channels + c];
#pragma omp atomic
        out[6 + c] += alpha * T * v[c];
        v_alpha += (color * T - behind[c] * ra) * v[c];
        behind[c] += color * alpha * T;
      }
      if (s.opacities[g] * visible > 0.999f) continue;
      const float v_sigma = -s.opacities[g] * visible * v_alpha;
      const float* conic = s.conics + 3 * g;
      const float parts[6] = {v_sigma * (conic[0] * dx + conic[1] * dy), v_sigma * (conic[1] * dx + conic[2] * dy),
                              0.5f * v_sigma * dx * dx, v_sigma * dx * dy, 0.5f * v_sigma * dy * dy, visible * v_alpha};
      for (int j = 0; j < 6; j++) {
#pragma omp atomic
        out[j] += parts[j];
      }
    }
  });
}
