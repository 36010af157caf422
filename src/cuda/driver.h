/*
 * The NVIDIA driver as a struct of function pointers, filled by dlopen at the first use and never given back.
 * Nothing links it: where it is missing, too old or broken, there is a sentence that says so.
 *
 * FMLA_CUDA_DRIVER names another library to open than libcuda.so.1; for tests.
 */
#ifndef FMLAI_CUDA_DRIVER_H
#define FMLAI_CUDA_DRIVER_H

#include "cuda/cuda_api.h"

#include <stddef.h>

/* X(name, symbol, parameters). The symbols are those that cuda.h gives the names. */
#define FMLAI_CUDA_REQUIRED(X)                                                                                 \
  X(cuDriverGetVersion, "cuDriverGetVersion", (int *version))                                                  \
  X(cuGetErrorName, "cuGetErrorName", (CUresult result, const char **name))                                    \
  X(cuGetErrorString, "cuGetErrorString", (CUresult result, const char **text))                                \
  X(cuInit, "cuInit", (unsigned flags))                                                                        \
  X(cuDeviceGetCount, "cuDeviceGetCount", (int *count))                                                        \
  X(cuDeviceGet, "cuDeviceGet", (CUdevice * device, int ordinal))                                              \
  X(cuDeviceGetName, "cuDeviceGetName", (char *name, int bytes, CUdevice device))                              \
  X(cuDeviceGetAttribute, "cuDeviceGetAttribute", (int *value, CUdevice_attribute attribute, CUdevice device)) \
  X(cuDeviceTotalMem, "cuDeviceTotalMem_v2", (size_t * bytes, CUdevice device))                                \
  X(cuDevicePrimaryCtxRetain, "cuDevicePrimaryCtxRetain", (CUcontext * context, CUdevice device))              \
  X(cuDevicePrimaryCtxRelease, "cuDevicePrimaryCtxRelease_v2", (CUdevice device))                              \
  X(cuCtxGetCurrent, "cuCtxGetCurrent", (CUcontext * context))                                                 \
  X(cuCtxGetDevice, "cuCtxGetDevice", (CUdevice * device))                                                     \
  X(cuCtxPushCurrent, "cuCtxPushCurrent_v2", (CUcontext context))                                              \
  X(cuCtxPopCurrent, "cuCtxPopCurrent_v2", (CUcontext * context))                                              \
  X(cuModuleLoadData, "cuModuleLoadData", (CUmodule * module, const void *image))                              \
  X(cuModuleUnload, "cuModuleUnload", (CUmodule module))                                                       \
  X(cuModuleGetFunction, "cuModuleGetFunction", (CUfunction * function, CUmodule module, const char *name))    \
  X(cuFuncGetAttribute, "cuFuncGetAttribute",                                                                  \
    (int *value, CUfunction_attribute attribute, CUfunction function))                                         \
  X(cuFuncSetAttribute, "cuFuncSetAttribute",                                                                  \
    (CUfunction function, CUfunction_attribute attribute, int value))                                          \
  X(cuOccupancyMaxActiveBlocksPerMultiprocessor, "cuOccupancyMaxActiveBlocksPerMultiprocessor",                \
    (int *ctas, CUfunction function, int threads, size_t shared_bytes))                                        \
  X(cuLaunchKernel, "cuLaunchKernel",                                                                          \
    (CUfunction function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,                 \
     unsigned block_y, unsigned block_z, unsigned shared_bytes, CUstream stream, void **parameters,            \
     void **extra))                                                                                            \
  X(cuMemAlloc, "cuMemAlloc_v2", (void **memory, size_t bytes))                                                \
  X(cuMemFree, "cuMemFree_v2", (void *memory))                                                                 \
  X(cuMemcpyHtoDAsync, "cuMemcpyHtoDAsync_v2", (void *to, const void *from, size_t bytes, CUstream stream))    \
  X(cuMemcpyDtoHAsync, "cuMemcpyDtoHAsync_v2", (void *to, const void *from, size_t bytes, CUstream stream))    \
  X(cuMemsetD32Async, "cuMemsetD32Async", (void *to, unsigned value, size_t count, CUstream stream))           \
  X(cuStreamCreate, "cuStreamCreate", (CUstream * stream, unsigned flags))                                     \
  X(cuStreamDestroy, "cuStreamDestroy_v2", (CUstream stream))                                                  \
  X(cuStreamSynchronize, "cuStreamSynchronize", (CUstream stream))

/* NULL in the table where the driver does not have them: what the library can do without, */
#define FMLAI_CUDA_OPTIONAL(X)                                                                                 \
  X(cuFuncLoad, "cuFuncLoad", (CUfunction function))                                                           \
  X(cuLaunchKernelEx, "cuLaunchKernelEx",                                                                      \
    (const CUlaunchConfig *config, CUfunction function, void **parameters, void **extra))                      \
  X(cuStreamIsCapturing, "cuStreamIsCapturing", (CUstream stream, int *status))                                \
  X(cuTensorMapEncodeTiled, "cuTensorMapEncodeTiled",                                                          \
    (void *map, int type, uint32_t rank, const void *tensor, const uint64_t *extents,                          \
     const uint64_t *strides_bytes, const uint32_t *box, const uint32_t *element_strides, int interleave,      \
     int swizzle, int l2_promotion, int fill))

/* ... and what the program's check and bench need beside the library. */
#define FMLAI_CUDA_OF_PROBE(X)                                                                                 \
  X(cuMemGetInfo, "cuMemGetInfo_v2", (size_t * free_bytes, size_t * all_bytes))                                \
  X(cuMemHostAlloc, "cuMemHostAlloc", (void **memory, size_t bytes, unsigned flags))                           \
  X(cuMemFreeHost, "cuMemFreeHost", (void *memory))                                                            \
  X(cuStreamBeginCapture, "cuStreamBeginCapture_v2", (CUstream stream, int mode))                              \
  X(cuStreamEndCapture, "cuStreamEndCapture", (CUstream stream, CUgraph * graph))                              \
  X(cuGraphInstantiate, "cuGraphInstantiateWithFlags",                                                         \
    (CUgraphExec * instance, CUgraph graph, unsigned long long flags))                                         \
  X(cuGraphLaunch, "cuGraphLaunch", (CUgraphExec instance, CUstream stream))                                   \
  X(cuGraphExecDestroy, "cuGraphExecDestroy", (CUgraphExec instance))                                          \
  X(cuGraphDestroy, "cuGraphDestroy", (CUgraph graph))                                                         \
  X(cuEventCreate, "cuEventCreate", (CUevent * event, unsigned flags))                                         \
  X(cuEventRecord, "cuEventRecord", (CUevent event, CUstream stream))                                          \
  X(cuEventQuery, "cuEventQuery", (CUevent event))                                                             \
  X(cuEventSynchronize, "cuEventSynchronize", (CUevent event))                                                 \
  X(cuEventElapsedTime, "cuEventElapsedTime", (float *milliseconds, CUevent start, CUevent end))               \
  X(cuEventDestroy, "cuEventDestroy_v2", (CUevent event))

typedef struct fmlai_cuda_driver {
  int version; /* of CUDA, as major * 1000 + minor * 10 */
#define X(name, symbol, parameters) CUresult(*name) parameters;
  FMLAI_CUDA_REQUIRED(X)
  FMLAI_CUDA_OPTIONAL(X)
  FMLAI_CUDA_OF_PROBE(X)
#undef X
} fmlai_cuda_driver;

/* NULL if the driver cannot be used; then *absence says why, in words that follow "but". */
const fmlai_cuda_driver *fmlai_cuda_driver_get(const char **absence);

/* "cuMemAlloc failed: CUDA_ERROR_OUT_OF_MEMORY (out of memory)" */
void fmlai_cuda_describe(const fmlai_cuda_driver *driver, const char *call, CUresult result, char *text,
                         size_t bytes);

/* "an NVIDIA driver for CUDA 13 (R580 or newer)" or the like; static storage. */
const char *fmlai_cuda_driver_needed(void);

#endif
