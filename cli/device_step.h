/* device_step.h: a decode step placed on a device, run there, and its results fetched. */
#ifndef CLI_DEVICE_STEP_H
#define CLI_DEVICE_STEP_H

#include "flash_mla.h"

enum { DEVICE_STEP_MAX_BUFFERS = 10 };

typedef struct device_step {
  fmla_context *context;
  fmla_decode_params params; /* with pointers to the device's memory */
  void *workspace;
  size_t workspace_bytes;
  void *stream;
  void *buffers[DEVICE_STEP_MAX_BUFFERS];
  int num_buffers;
} device_step;

/* Allocates the step's tensors on the device and uploads the inputs that `host` has; a kv_cache of NULL stays
   uninitialised. Returns an exit code; device_step_free in every case. */
int device_step_place(fmla_context *context, const fmla_decode_params *host, device_step *step);
void device_step_free(device_step *step);

/* Decodes, and waits for the result. */
fmla_status device_step_run(const device_step *step);

/* Downloads the results to host->out and host->lse. */
int device_step_fetch(const device_step *step, const fmla_decode_params *host);

#endif
