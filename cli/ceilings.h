/* ceilings.h: how fast the CPU can read memory and multiply, measured. */
#ifndef CLI_CEILINGS_H
#define CLI_CEILINGS_H

#include "flash_mla.h"

typedef struct ceilings {
  double read_bytes;           /* per second, from main memory */
  double operations;           /* per second, multiply-adds counted as two, from registers, by the set below */
  size_t cache_bytes;          /* of the last-level caches that the threads may reach */
  const char *instruction_set; /* the kernel's */
} ceilings;

/* Measures the CPU with as many threads as the context has, within about two seconds, for one of its kernels or
   NULL: the first that the library may use here; FMLA_CPU_DISABLE removes some. Returns an exit code. */
int measure_ceilings(const fmla_context_info *context, const char *kernel, ceilings *result);

#endif
