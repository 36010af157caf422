/* Reads pages in the order of a table, as a decode step reads a cache, and does nothing with them. */
#include "args.h"
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
#include "ptx90.cuh"
#endif

#include <stdint.h>

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

/* By one thread: pages go to shared memory as wholes, the next ones on their way while it waits for one. */
extern "C" __global__ void __launch_bounds__(PROBE_READ_THREADS)
    probe_read(const char *pages, const uint32_t *order, uint32_t num_pages, uint32_t num_reads, uint32_t *sums) {
  extern __shared__ __align__(128) char stages[];
  __shared__ uint64_t barriers[PROBE_READ_STAGES];
  if (threadIdx.x != 0)
    return;
  const uint32_t to = shared_address(stages), barrier = shared_address(barriers);
  for (int s = 0; s < PROBE_READ_STAGES; s++)
    barrier_init(barrier + 8 * s, 1);
  fence_barrier_init();

  uint32_t next = blockIdx.x, sum = 0;
  for (int s = 0; s < PROBE_READ_STAGES && next < num_reads; s++, next += gridDim.x) {
    barrier_expect(barrier + 8 * s, PROBE_PAGE_BYTES);
    copy_bulk(to + s * PROBE_PAGE_BYTES, pages + (uint64_t)order[next % num_pages] * PROBE_PAGE_BYTES,
              PROBE_PAGE_BYTES, barrier + 8 * s);
  }
  int stage = 0;
  uint32_t parity = 0;
  for (uint32_t i = blockIdx.x; i < num_reads; i += gridDim.x) {
    const uint32_t page = next < num_reads ? order[next % num_pages] : 0; /* looked up while others are copied */
    while (!barrier_try_wait(barrier + 8 * stage, parity)) {
    }
    sum ^= *(const volatile uint32_t *)(stages + stage * PROBE_PAGE_BYTES);
    if (next < num_reads) {
      barrier_expect(barrier + 8 * stage, PROBE_PAGE_BYTES);
      copy_bulk(to + stage * PROBE_PAGE_BYTES, pages + (uint64_t)page * PROBE_PAGE_BYTES, PROBE_PAGE_BYTES,
                barrier + 8 * stage);
      next += gridDim.x;
    }
    stage = stage + 1 < PROBE_READ_STAGES ? stage + 1 : 0;
    parity ^= stage == 0;
  }
  sums[blockIdx.x] = sum;
}

#else

enum { LOADS = 6, CHUNKS = PROBE_PAGE_BYTES / 16 / PROBE_READ_THREADS };

static __device__ __forceinline__ uint4 load_once(const uint4 *from) {
  uint4 v;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(from));
  return v;
}

extern "C" __global__ void __launch_bounds__(PROBE_READ_THREADS)
    probe_read(const char *pages, const uint32_t *order, uint32_t num_pages, uint32_t num_reads, uint32_t *sums) {
  uint32_t sum = 0;
  for (uint32_t i = blockIdx.x; i < num_reads; i += gridDim.x) {
    const uint4 *page = (const uint4 *)(pages + (uint64_t)order[i % num_pages] * PROBE_PAGE_BYTES) + threadIdx.x;
    for (int c = 0; c < CHUNKS; c += LOADS) {
      uint4 v[LOADS];
#pragma unroll
      for (int j = 0; j < LOADS; j++)
        v[j] = load_once(page + (c + j) * PROBE_READ_THREADS);
#pragma unroll
      for (int j = 0; j < LOADS; j++)
        sum ^= v[j].x ^ v[j].y ^ v[j].z ^ v[j].w;
    }
  }
  if (sum != 0) /* so that nothing can be left out */
    sums[blockIdx.x] = sum;
}

#endif
