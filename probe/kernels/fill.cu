/* Fills memory with random 16-bit elements, much faster than an upload would. */
#include "args.h"
#include "random.cuh"

extern "C" __global__ void __launch_bounds__(PROBE_FILL_THREADS)
    probe_fill(uint16_t *to, uint64_t count, uint64_t seed, int32_t is_fp16) {
  const uint64_t step = (uint64_t)gridDim.x * PROBE_FILL_THREADS;
  for (uint64_t i = (uint64_t)blockIdx.x * PROBE_FILL_THREADS + threadIdx.x; i < count / 8; i += step)
    ((uint4 *)to)[i] = make_uint4(random_pair(seed, 4 * i, is_fp16), random_pair(seed, 4 * i + 1, is_fp16),
                                  random_pair(seed, 4 * i + 2, is_fp16), random_pair(seed, 4 * i + 3, is_fp16));
}
