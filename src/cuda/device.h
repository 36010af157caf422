/*
 * The GPUs that the library can use: of compute capability 8.0 or newer. Read once.
 *
 * FMLA_CUDA_MAX_SHARED makes their shared memory look smaller, for tests: 101376 bytes are those of consumer
 * cards.
 */
#ifndef FMLAI_CUDA_DEVICE_H
#define FMLAI_CUDA_DEVICE_H

#include "cuda/driver.h"

#include <stdint.h>

typedef struct fmlai_cuda_device {
  CUdevice handle;
  int32_t ordinal; /* N of "cuda:N" */
  char description[128];
  int32_t capability; /* 90 for 9.0 */
  int32_t num_sms;
  /* Bytes of shared memory: that a CTA may have, that an SM has, and of those what the driver takes from each
   * CTA. */
  int32_t shared_per_cta, shared_per_sm, shared_reserved;
  uint64_t memory_bytes;
} fmlai_cuda_device;

int32_t fmlai_cuda_num_devices(void);
const fmlai_cuda_device *fmlai_cuda_device_at(int32_t index);

/* Why there are none, in words that follow "but"; NULL if there are some. */
const char *fmlai_cuda_absence(void);

/* What such a device is and needs, in words; static storage. */
const char *fmlai_cuda_device_needs(void);

#endif
