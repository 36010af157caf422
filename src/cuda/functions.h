/* The device code of a context: its modules, and every function found in them and made resident. */
#ifndef FMLAI_CUDA_FUNCTIONS_H
#define FMLAI_CUDA_FUNCTIONS_H

#include "cuda/device.h"
#include "cuda/image.h"
#include "cuda/variant.h"

#include <stdbool.h>

typedef struct fmlai_cuda_decode_function {
  CUfunction function;
  int32_t ctas_per_sm; /* that fit an SM's registers, its shared memory aside */
} fmlai_cuda_decode_function;

typedef struct fmlai_cuda_functions {
  CUmodule modules[FMLAI_CUDA_MAX_IMAGES];
  int32_t num_modules;
  fmlai_cuda_decode_function decode[FMLAI_CUDA_NUM_VARIANTS][FMLAI_CUDA_NUM_TYPES];
  CUfunction merge_splits;
  CUfunction merge_parts;
  CUfunction check_values;
  bool chained; /* kernels wait by themselves for what is before them in the stream */
} fmlai_cuda_functions;

/* Both work on the current CUcontext. What a load that failed left behind is to be unloaded, too. */
fmla_status fmlai_cuda_functions_load(const fmlai_cuda_driver *driver, const fmlai_cuda_device *device,
                                      fmlai_cuda_functions *functions);
void fmlai_cuda_functions_unload(const fmlai_cuda_driver *driver, fmlai_cuda_functions *functions);

#endif
