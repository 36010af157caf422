#include "cuda/launch.h"

#include "cuda/error.h"

fmla_status fmlai_cuda_launch_kernel(const fmlai_cuda_context *c, const fmlai_cuda_launch *l, void **parameters,
                                     CUstream stream) {
  if (!c->functions.chained)
    return FMLAI_CUDA_CALL(c->driver, cuLaunchKernel, l->function, (unsigned)l->grid, 1, 1, (unsigned)l->block,
                           1, 1, (unsigned)l->shared_bytes, stream, parameters, NULL);
  CUlaunchAttribute chained = {.id = CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
                               .value = {.programmaticStreamSerializationAllowed = 1}};
  const CUlaunchConfig config = {.gridDimX = (unsigned)l->grid,
                                 .gridDimY = 1,
                                 .gridDimZ = 1,
                                 .blockDimX = (unsigned)l->block,
                                 .blockDimY = 1,
                                 .blockDimZ = 1,
                                 .sharedMemBytes = (unsigned)l->shared_bytes,
                                 .hStream = stream,
                                 .attrs = &chained,
                                 .numAttrs = 1};
  return FMLAI_CUDA_CALL(c->driver, cuLaunchKernelEx, &config, l->function, parameters, NULL);
}

fmla_status fmlai_cuda_is_capturing(const fmlai_cuda_context *c, CUstream stream, bool *is_capturing) {
  int status = CU_STREAM_CAPTURE_STATUS_NONE;
  if (c->driver->cuStreamIsCapturing != NULL)
    FMLAI_TRY(FMLAI_CUDA_CALL(c->driver, cuStreamIsCapturing, stream, &status));
  *is_capturing = status != CU_STREAM_CAPTURE_STATUS_NONE;
  return FMLA_OK;
}
