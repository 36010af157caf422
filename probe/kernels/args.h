/*
 * What the host must know of the probe's kernels: how they are to be launched, what they do and leave behind.
 * Plain C, the same in CUDA C.
 */
#ifndef PROBE_ARGS_H
#define PROBE_ARGS_H

/* probe_fill(uint16_t *to, uint64_t count, uint64_t seed, int32_t is_fp16): random numbers, any grid. `count`
   is a multiple of 8, `to` aligned to 16 bytes. */
enum { PROBE_FILL_THREADS = 256 };

/*
 * probe_read(const char *pages, const uint32_t *order, uint32_t num_pages, uint32_t num_reads, uint32_t *sums):
 * reads page order[i % num_pages] for each i below num_reads, and leaves a word for each CTA. With bulk copies
 * one CTA fills an SM's shared memory with pages; else several CTAs load 16 bytes at a time.
 */
enum {
  PROBE_PAGE_BYTES = 73728,
  PROBE_READ_STAGES = 3,
  PROBE_READ_BULK_BYTES = PROBE_READ_STAGES * PROBE_PAGE_BYTES,
  PROBE_READ_THREADS = 256,
  PROBE_READ_CTAS_PER_SM = 8
};

/* probe_multiply_bf16(float *sums, int32_t passes) and _fp16: every CTA makes that many passes, and leaves a
   word for each thread. With wgmma one CTA fills an SM; with mma there are two. */
enum {
  PROBE_MULTIPLY_THREADS = 256,
  PROBE_MULTIPLY_WGMMA_BYTES = 192 * 1024 + 1024,
  PROBE_MULTIPLY_MMA_CTAS_PER_SM = 2,
  PROBE_OPERATIONS_PER_PASS = 1 << 25
};

/*
 * probe_hold(const uint32_t *release, uint32_t *slots, uint64_t timeout_ns), in memory of the host: every CTA
 * puts PROBE_HOLDS + its SM's number into its slot, and ends when *release is not 0; or after the timeout, with
 * PROBE_TIMED_OUT in its slot. probe_hold_pairs: the same in clusters of two.
 */
enum { PROBE_HOLD_THREADS = 32, PROBE_HOLDS = 0x10000, PROBE_TIMED_OUT = 0x20000 };

#endif
