// How kernels are registered: every op has one function type, in its `*_checks.h` or `*_inputs.h`, that all devices use.
#pragma once

namespace splatseg {

// m.impl("name_", kernel<NameOp>(name_cpu_)): a kernel of another type than the op's does not compile. torch compares the
// types only when the second kernel of an op registers, while Python imports the extension, and then aborts the process.
template <class Op>
constexpr Op* kernel(Op* function) {
  return function;
}

}  // namespace splatseg
