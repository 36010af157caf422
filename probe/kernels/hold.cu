/* Holds SMs until it is told to let go. */
#include "args.h"

#include <stdint.h>

static __device__ __forceinline__ uint64_t nanoseconds(void) {
  uint64_t now;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now)::"memory");
  return now;
}

static __device__ __forceinline__ uint32_t sm_number(void) {
  uint32_t number;
  asm volatile("mov.u32 %0, %%smid;" : "=r"(number));
  return number;
}

static __device__ __forceinline__ void hold(const volatile uint32_t *release, volatile uint32_t *slots,
                                            uint64_t timeout_ns) {
  if (threadIdx.x != 0)
    return;
  const uint64_t start = nanoseconds();
  slots[blockIdx.x] = PROBE_HOLDS + sm_number();
  __threadfence_system();
  while (*release == 0) {
    if (nanoseconds() - start > timeout_ns) {
      slots[blockIdx.x] = PROBE_TIMED_OUT;
      return;
    }
    __nanosleep(1000);
  }
}

extern "C" __global__ void __launch_bounds__(PROBE_HOLD_THREADS)
    probe_hold(const volatile uint32_t *release, volatile uint32_t *slots, uint64_t timeout_ns) {
  hold(release, slots, timeout_ns);
}

#if __CUDA_ARCH__ >= 900
#define PAIRS __cluster_dims__(2, 1, 1)
#else
#define PAIRS
#endif

extern "C" __global__ void PAIRS __launch_bounds__(PROBE_HOLD_THREADS)
    probe_hold_pairs(const volatile uint32_t *release, volatile uint32_t *slots, uint64_t timeout_ns) {
  hold(release, slots, timeout_ns);
}
