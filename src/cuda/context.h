/*
 * A context on a GPU: one CUcontext, the device code in it, and what the device can do. Written by open alone,
 * so that any number of threads may use it.
 */
#ifndef FMLAI_CUDA_CONTEXT_H
#define FMLAI_CUDA_CONTEXT_H

#include "backend.h"
#include "cuda/functions.h"

typedef struct fmlai_cuda_context {
  fmla_context base;
  const fmlai_cuda_driver *driver;
  const fmlai_cuda_device *device;
  CUcontext cuda_context;
  bool is_primary; /* retained by us; else the caller's own, which outlives this context */
  fmlai_cuda_functions functions;
  int32_t only; /* the variant that fmla_config names, or -1 */
} fmlai_cuda_context;

/* Binds the calling thread's current CUcontext if it is the device's, else the device's primary one. */
fmla_status fmlai_cuda_context_open(const fmla_config *config, int32_t device, fmla_context **context);
void fmlai_cuda_context_close(fmla_context *context);

/* Around calls of the driver. leave returns `status`, or its own failure if that is FMLA_OK. */
fmla_status fmlai_cuda_enter(const fmlai_cuda_context *c);
fmla_status fmlai_cuda_leave(const fmlai_cuda_context *c, fmla_status status);

#endif
