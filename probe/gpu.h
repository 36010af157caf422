/*
 * gpu.h: what bench and check need of a GPU beside the public API: its driver's functions, the probe's own
 * kernels. Functions that can fail return false; then the GPU holds one sentence that says why, with the
 * driver's words.
 */
#ifndef PROBE_GPU_H
#define PROBE_GPU_H

#include "cuda/device.h"
#include "image.h"

#include <stdbool.h>
#include <stdint.h>

typedef struct probe_gpu {
  const fmlai_cuda_driver *driver;
  const fmlai_cuda_device *device;
  CUcontext context; /* NULL: not retained */
  bool is_current;
  CUmodule modules[PROBE_NUM_IMAGES];
  int32_t num_modules;
  int32_t l2_bytes;
  int32_t
      shared_per_cta; /* the most that a CTA may have, whatever the library was told by FMLA_CUDA_MAX_SHARED */
  char sentence[512];
} probe_gpu;

/* Opens "cuda:ordinal" and makes its primary context, where the library works too, the calling thread's current
   one until probe_close by the same thread, which is to follow in every case. */
bool probe_open(probe_gpu *gpu, int32_t ordinal);
void probe_close(probe_gpu *gpu);

/* Keeps a sentence; false. */
__attribute__((format(printf, 2, 3))) bool probe_fail(probe_gpu *gpu, const char *format, ...);

/* Whether a call of the driver went well; else its words are the sentence. */
bool probe_succeeded(probe_gpu *gpu, const char *call, CUresult result);
#define PROBE_CALL(gpu, function, ...) probe_succeeded((gpu), #function, (gpu)->driver->function(__VA_ARGS__))

/* The version of the driver in words: "driver 580.95.05 for CUDA 13.0", or what of it is known. */
void probe_describe_driver(const probe_gpu *gpu, char *text, size_t bytes);

/* Device memory that can be had. */
bool probe_free_bytes(probe_gpu *gpu, size_t *bytes);

/* ---- Kernels ------------------------------------------------------------------------------------ */

typedef struct probe_kernel {
  CUfunction function;
  bool is_for_90; /* it is what was compiled for sm_90a */
} probe_kernel;

/* A kernel of kernels/NAME.cu, made resident, that may have so much dynamic shared memory. */
bool probe_find_kernel(probe_gpu *gpu, probe_image image, const char *name, int32_t shared_bytes,
                       probe_kernel *kernel);

/* `parameters`: the address of each of the kernel's. */
bool probe_launch(probe_gpu *gpu, const probe_kernel *kernel, int32_t grid, int32_t block, int32_t shared_bytes,
                  void **parameters, CUstream stream);

/* Puts random BF16 or FP16 numbers into device memory: normal, with a standard deviation of 0.1, within +-1.
   `count` is a multiple of 8. */
bool probe_fill(probe_gpu *gpu, void *to, uint64_t count, uint64_t seed, bool is_fp16, CUstream stream);

#endif
