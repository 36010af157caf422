/* Kernel launches, and the calls that are made of them. */
#ifndef FMLAI_CUDA_LAUNCH_H
#define FMLAI_CUDA_LAUNCH_H

#include "cuda/context.h"
#include "cuda/kernels/args.h"

typedef struct fmlai_cuda_launch {
  CUfunction function;
  int32_t grid, block;
  int32_t shared_bytes;
} fmlai_cuda_launch;

/* Where the device code can, the kernel waits by itself for those before it in the stream, and is launched
   before they have ended. `parameters`: the address of each of the kernel's. The context is entered, here and
   below. */
fmla_status fmlai_cuda_launch_kernel(const fmlai_cuda_context *c, const fmlai_cuda_launch *launch,
                                     void **parameters, CUstream stream);

/* Whether a graph is being captured from the stream, where nothing may wait for it. */
fmla_status fmlai_cuda_is_capturing(const fmlai_cuda_context *c, CUstream stream, bool *is_capturing);

#endif
