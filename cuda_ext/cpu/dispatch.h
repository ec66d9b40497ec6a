// Run-time choice of instruction set. Files under cpu/kernels/ are compiled once per instruction set (setup.py), each time
// with SPLATSEG_ISA set to the name of a namespace; this header declares a kernel in all of them and picks one.
#pragma once

#if defined(__x86_64__) && !defined(SPLATSEG_BASELINE_ONLY)
#define SPLATSEG_X86 1
#else
#define SPLATSEG_X86 0
#endif

namespace splatseg {

enum class Isa { baseline = 0, avx2 = 1, avx512 = 2 };

// The best set this processor has, or the one that the environment variable SPLATSEG_ISA names (if the processor has it).
Isa active_isa();

template <class Function>
Function* pick(Function* baseline, Function* avx2, Function* avx512) {
  switch (active_isa()) {
    case Isa::avx512: return avx512;
    case Isa::avx2: return avx2;
    default: return baseline;
  }
}

}  // namespace splatseg

// SPLATSEG_KERNEL(void, name, (const float* x, int64_t n)); declares splatseg::<isa>::name for every set.
// SPLATSEG_PICK(name)(x, n) calls the active one.
#if SPLATSEG_X86
#define SPLATSEG_KERNEL(RESULT, NAME, ARGS)            \
  namespace splatseg::baseline { RESULT NAME ARGS; }   \
  namespace splatseg::avx2 { RESULT NAME ARGS; }       \
  namespace splatseg::avx512 { RESULT NAME ARGS; }
#define SPLATSEG_PICK(NAME) \
  (::splatseg::pick(&::splatseg::baseline::NAME, &::splatseg::avx2::NAME, &::splatseg::avx512::NAME))
#else
#define SPLATSEG_KERNEL(RESULT, NAME, ARGS) \
  namespace splatseg::baseline { RESULT NAME ARGS; }
#define SPLATSEG_PICK(NAME) (&::splatseg::baseline::NAME)
#endif
