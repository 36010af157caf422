/* ceilings.h: how fast this machine can read memory and multiply, measured. */
#ifndef CLI_CEILINGS_H
#define CLI_CEILINGS_H

#include "flash_mla.h"

typedef struct ceilings {
  double read_bytes;  /* per second, from main memory */
  double operations;  /* per second, FP32 multiply-adds counted as two, from registers */
  size_t cache_bytes; /* of the last-level caches that the threads may reach */
} ceilings;

/* Measures the device of a context with as many threads as the context has, within about two seconds. Returns
   EXIT_ENVIRONMENT for a device that cannot be measured yet. */
int measure_ceilings(const fmla_context_info *context, ceilings *result);

#endif
