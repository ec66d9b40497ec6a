// torch's current stream, as the kernels' launches take it.
#pragma once

#include <c10/cuda/CUDAStream.h>

#include "cuda/device.cuh"

namespace splatseg {

inline cuda::Stream current_stream() { return {c10::cuda::getCurrentCUDAStream()}; }

}  // namespace splatseg
