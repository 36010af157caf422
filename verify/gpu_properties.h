/*
 * gpu_properties.h: what must hold on GPUs beside each case being right. Each property is run once for a
 * kernel.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef VERIFY_GPU_PROPERTIES_H
#define VERIFY_GPU_PROPERTIES_H

#include "gpu.h"
#include "run_case.h"

typedef struct verify_gpu {
  fmla_config config; /* of the contexts: the device, and the kernel */
  verify_target target;
  probe_gpu probe;
  /* Other values when quick: the elements of a pool that 32 bits do not count; what lengths and
     the numbers of repetitions are divided by. */
  uint64_t far_elements;
  int32_t divisor;
  bool is_serial;    /* no kernel runs beside another, as under a sanitizer */
  char message[640]; /* of what failed, or was not run */
} verify_gpu;

/* False: the message says why. verify_gpu_close in both cases. */
bool verify_gpu_open(const fmla_config *config, verify_gpu *gpu);
void verify_gpu_close(verify_gpu *gpu);

/* Less work and memory for each property; to be said before the first. */
void verify_gpu_be_quick(verify_gpu *gpu);

int verify_num_gpu_properties(void);
const char *verify_gpu_property_name(int index);
verify_outcome verify_run_gpu_property(verify_gpu *gpu, int index);

#endif
