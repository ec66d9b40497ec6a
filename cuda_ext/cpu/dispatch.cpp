#include "cpu/dispatch.h"

#include <cstdlib>
#include <cstring>

namespace splatseg {
namespace {

Isa detect() {
#if SPLATSEG_X86
  __builtin_cpu_init();
  const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c") &&
                        __builtin_cpu_supports("bmi2");
  const bool has_avx512 = has_avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                          __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  const Isa best = has_avx512 ? Isa::avx512 : has_avx2 ? Isa::avx2 : Isa::baseline;
  const char* wanted = std::getenv("SPLATSEG_ISA");
  if (wanted == nullptr) return best;
  if (std::strcmp(wanted, "baseline") == 0) return Isa::baseline;
  if (std::strcmp(wanted, "avx2") == 0 && has_avx2) return Isa::avx2;
  return best;
#else
  return Isa::baseline;
#endif
}

}  // namespace

Isa active_isa() {
  static const Isa isa = detect();
  return isa;
}

}  // namespace splatseg
