/* gpu_ceilings.h: how fast a GPU reads its memory and multiplies matrices, measured by kernels that do nothing
 * else. */
#ifndef PROBE_GPU_CEILINGS_H
#define PROBE_GPU_CEILINGS_H

#include "gpu.h"

enum { PROBE_PAGE_KIB = 72 };
enum { PROBE_BF16, PROBE_FP16, PROBE_NUM_TYPES };

typedef struct probe_ceilings {
  double read_bytes; /* per second, of random pages that the L2 does not hold */
  /* Per second: sustained, once the load has lasted 0.1 s and power sets the clock; and in the first 0.02 s. */
  double operations[PROBE_NUM_TYPES], burst_operations[PROBE_NUM_TYPES];
  bool is_for_90; /* by bulk copies and wgmma; else by loads and mma */
} probe_ceilings;

/* Takes about a second, and up to 4 GiB of device memory. */
bool probe_measure_ceilings(probe_gpu *gpu, probe_ceilings *ceilings);

#endif
