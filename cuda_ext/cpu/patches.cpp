// Masks to patches without ever holding a mask at full size: the edges of all runs, sorted by pixel, toggle a running bitset
// of the masks a pixel lies in; a hash table maps bitsets to patch numbers. Free of ATen. The specification is
// splatseg/ops/reference/patches.py.
#include "cpu/patches.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace splatseg {
namespace {

uint64_t mix(uint64_t x) {  // splitmix64
  x += 0x9E3779B97F4A7C15ull;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
  return x ^ (x >> 31);
}

// The key of a set of masks is the xor of the keys of its masks (Zobrist), so a toggle updates it in one step.
uint64_t mask_key(int64_t mask) { return mix(static_cast<uint64_t>(mask) + 1); }

template <class Visit>
void for_each_bit(const Bits* bits, int64_t words, Visit visit) {
  for (int64_t w = 0; w < words; w++) {
    for (Bits rest = bits[w]; rest; rest &= rest - 1) visit(w * 64 + __builtin_ctzll(rest));
  }
}

// Numbers distinct bitsets in the order they are first asked for. The key only picks the slot: whole bitsets are compared,
// so equal keys of different sets cannot merge two patches.
class MembershipTable {
 public:
  explicit MembershipTable(int64_t words) : words_(words), slots_(1 << 12, -1) {}

  int32_t find_or_add(const Bits* bits, uint64_t key) {
    for (size_t slot = key & (slots_.size() - 1);; slot = (slot + 1) & (slots_.size() - 1)) {
      const int32_t found = slots_[slot];
      if (found < 0) return add(bits, key, slot);
      if (keys_[found] == key && std::memcmp(&bits_[found * words_], bits, sizeof(Bits) * words_) == 0) return found;
    }
  }

  std::vector<Bits> take_bits() { return std::move(bits_); }

 private:
  int32_t add(const Bits* bits, uint64_t key, size_t slot) {
    const auto number = static_cast<int32_t>(keys_.size());
    slots_[slot] = number;
    keys_.push_back(key);
    bits_.insert(bits_.end(), bits, bits + words_);
    if (keys_.size() * 2 > slots_.size()) grow();
    return number;
  }

  void grow() {
    slots_.assign(slots_.size() * 2, -1);
    for (size_t number = 0; number < keys_.size(); number++) {
      size_t slot = keys_[number] & (slots_.size() - 1);
      while (slots_[slot] >= 0) slot = (slot + 1) & (slots_.size() - 1);
      slots_[slot] = static_cast<int32_t>(number);
    }
  }

  int64_t words_;
  std::vector<int32_t> slots_;
  std::vector<uint64_t> keys_;
  std::vector<Bits> bits_;
};

// Calls visit(mask, pixel) where a run starts or ends inside the image, mask by mask.
template <class Visit>
void for_each_edge(const MaskRuns& runs, Visit visit) {
  for (int64_t mask = 0; mask < runs.masks; mask++) {
    int64_t pixel = 0;
    for (int64_t i = runs.offsets[mask]; i < runs.offsets[mask + 1]; i++) {
      pixel += runs.counts[i];
      if (pixel < runs.pixels) visit(mask, pixel);
    }
  }
}

// The masks toggled at pixel x are masks[begin[x] .. begin[x + 1]) (a counting sort of the edges).
struct Toggles {
  std::vector<uint32_t> begin;
  std::vector<uint32_t> masks;
};

Toggles sort_edges(const MaskRuns& runs) {
  Toggles toggles{std::vector<uint32_t>(runs.pixels + 2, 0), {}};
  // Counts go two places up, their prefix sums one: filling then moves each start to the next pixel's, where it belongs.
  for_each_edge(runs, [&](int64_t, int64_t pixel) { toggles.begin[pixel + 2]++; });
  for (int64_t pixel = 2; pixel < runs.pixels + 2; pixel++) toggles.begin[pixel] += toggles.begin[pixel - 1];
  toggles.masks.resize(toggles.begin[runs.pixels + 1]);
  for_each_edge(runs, [&](int64_t mask, int64_t pixel) {
    toggles.masks[toggles.begin[pixel + 1]++] = static_cast<uint32_t>(mask);
  });
  return toggles;
}

// Masks as sets of patches, growing as they absorb each other. Patches lie in few masks, so visiting the masks of every
// patch of a mask is cheap, and no table of pairs of masks is needed.
class GrowingMasks {
 public:
  GrowingMasks(Patches& patches, int64_t masks) : patches_(patches), members_(masks), areas_(masks, 0), shared_(masks) {
    for (int64_t k = 0; k < patches.size(); k++) {
      for_each_bit(row(k), patches.words, [&](int64_t mask) {
        members_[mask].push_back(static_cast<int32_t>(k));
        areas_[mask] += patches.areas[k];
      });
    }
  }

  // The masks before `mask` are final; those it covers enough of by the time their turn comes become part of it.
  void absorb(int64_t mask, double nesting) {
    std::fill(shared_.begin(), shared_.end(), 0);
    for (const int32_t k : members_[mask]) share(k);
    for (int64_t other = 0; other < mask; other++) {
      if (static_cast<double>(shared_[other]) <= nesting * static_cast<double>(areas_[other])) continue;
      for (const int32_t k : members_[other]) {
        Bits& word = row(k)[mask / 64];
        const Bits bit = Bits{1} << (mask % 64);
        if (word & bit) continue;
        word |= bit;
        members_[mask].push_back(k);
        areas_[mask] += patches_.areas[k];
        share(k);
      }
    }
  }

 private:
  Bits* row(int64_t k) { return &patches_.membership[k * patches_.words]; }
  void share(int64_t k) {
    for_each_bit(row(k), patches_.words, [&](int64_t other) { shared_[other] += patches_.areas[k]; });
  }

  Patches& patches_;
  std::vector<std::vector<int32_t>> members_;  // patches of each mask
  std::vector<int64_t> areas_;
  std::vector<int64_t> shared_;  // pixels that each mask has in common with the one that grows
};

}  // namespace

bool valid_runs(const MaskRuns& runs, int64_t total) {
  if (runs.offsets[0] != 0 || runs.offsets[runs.masks] != total) return false;
  for (int64_t mask = 0; mask < runs.masks; mask++) {
    if (runs.offsets[mask] > runs.offsets[mask + 1] || runs.offsets[mask + 1] > total) return false;
    int64_t sum = 0;
    for (int64_t i = runs.offsets[mask]; i < runs.offsets[mask + 1]; i++) {
      if (runs.counts[i] < 0) return false;
      sum += runs.counts[i];
    }
    if (sum != runs.pixels) return false;
  }
  return true;
}

Patches find_patches(const MaskRuns& runs, int32_t* ids) {
  const int64_t words = std::max<int64_t>(1, (runs.masks + 63) / 64);
  const Toggles toggles = sort_edges(runs);
  std::vector<Bits> current(words, 0);
  uint64_t key = 0;
  MembershipTable table(words);
  int32_t id = table.find_or_add(current.data(), key);  // the reserved patch comes first, pixels or none
  std::vector<int64_t> areas(1, 0);
  int64_t start = 0;
  const auto close_run = [&](int64_t end) {
    std::fill(ids + start, ids + end, id);
    areas[id] += end - start;
    start = end;
  };
  for (int64_t pixel = 0; pixel < runs.pixels; pixel++) {
    const uint32_t begin = toggles.begin[pixel], end = toggles.begin[pixel + 1];
    if (begin == end) continue;
    close_run(pixel);
    for (uint32_t i = begin; i < end; i++) {
      const uint32_t mask = toggles.masks[i];
      current[mask / 64] ^= Bits{1} << (mask % 64);
      key ^= mask_key(mask);
    }
    id = table.find_or_add(current.data(), key);
    if (id == static_cast<int32_t>(areas.size())) areas.push_back(0);
  }
  close_run(runs.pixels);
  return Patches{words, table.take_bits(), std::move(areas)};
}

std::vector<int32_t> absorb_nested(Patches& patches, int64_t masks, double nesting) {
  GrowingMasks growing(patches, masks);
  for (int64_t mask = 1; mask < masks; mask++) growing.absorb(mask, nesting);
  MembershipTable table(patches.words);
  std::vector<int32_t> number(patches.size());
  std::vector<int64_t> areas;
  for (int64_t k = 0; k < patches.size(); k++) {
    const Bits* row = &patches.membership[k * patches.words];
    uint64_t key = 0;
    for_each_bit(row, patches.words, [&](int64_t mask) { key ^= mask_key(mask); });
    number[k] = table.find_or_add(row, key);
    if (number[k] == static_cast<int32_t>(areas.size())) areas.push_back(0);
    areas[number[k]] += patches.areas[k];
  }
  patches = Patches{patches.words, table.take_bits(), std::move(areas)};
  return number;
}

void to_rows(const int32_t* ids, const std::vector<int32_t>& number, int64_t height, int64_t width, int32_t* out) {
  constexpr int64_t kTile = 32;  // a tile of both layouts stays in the first-level cache
  for (int64_t row = 0; row < height; row += kTile) {
    for (int64_t column = 0; column < width; column += kTile) {
      for (int64_t c = column; c < std::min(column + kTile, width); c++) {
        for (int64_t r = row; r < std::min(row + kTile, height); r++) out[r * width + c] = number[ids[c * height + r]];
      }
    }
  }
}

}  // namespace splatseg
