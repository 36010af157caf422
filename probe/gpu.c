#include "gpu.h"

#include "kernels/args.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { PTX_FOR_90 = 90 };

/* ---- Failures ----------------------------------------------------------------------------------- */

bool probe_fail(probe_gpu *gpu, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(gpu->sentence, sizeof gpu->sentence, format, arguments);
  va_end(arguments);
  return false;
}

bool probe_succeeded(probe_gpu *gpu, const char *call, CUresult result) {
  if (result != CUDA_SUCCESS)
    fmlai_cuda_describe(gpu->driver, call, result, gpu->sentence, sizeof gpu->sentence);
  return result == CUDA_SUCCESS;
}

/* ---- A GPU -------------------------------------------------------------------------------------- */

static bool find_device(probe_gpu *gpu, int32_t ordinal) {
  const char *absence = NULL;
  gpu->driver = fmlai_cuda_driver_get(&absence);
  if (gpu->driver == NULL)
    return probe_fail(gpu, "GPU %d cannot be measured: %s", (int)ordinal, absence);
  for (int32_t i = 0; i < fmlai_cuda_num_devices(); i++)
    if (fmlai_cuda_device_at(i)->ordinal == ordinal)
      gpu->device = fmlai_cuda_device_at(i);
  if (gpu->device != NULL)
    return true;
  absence = fmlai_cuda_absence();
  return probe_fail(gpu, "there is no GPU %d%s%s", (int)ordinal, absence != NULL ? ": " : "",
                    absence != NULL ? absence : "");
}

static bool has_functions(probe_gpu *gpu) {
#define X(name, symbol, parameters)                                                                            \
  if (gpu->driver->name == NULL)                                                                               \
    return probe_fail(gpu, "the driver lacks the function %s, which measuring needs", symbol);
  FMLAI_CUDA_OF_PROBE(X)
#undef X
  return true;
}

static bool load_modules(probe_gpu *gpu) {
  for (int i = 0; i < PROBE_NUM_IMAGES; i++) {
    if (probe_images.images[i] == NULL)
      return probe_fail(gpu, "this build has no code to measure GPUs with: it was made without nvcc");
    if (!PROBE_CALL(gpu, cuModuleLoadData, &gpu->modules[i], probe_images.images[i]))
      return false;
    gpu->num_modules++;
  }
  return true;
}

bool probe_open(probe_gpu *gpu, int32_t ordinal) {
  *gpu = (probe_gpu){0};
  if (!find_device(gpu, ordinal) || !has_functions(gpu))
    return false;
  const CUdevice device = gpu->device->handle;
  CUcontext context;
  if (!PROBE_CALL(gpu, cuDeviceGetAttribute, &gpu->l2_bytes, CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE, device) ||
      !PROBE_CALL(gpu, cuDeviceGetAttribute, &gpu->shared_per_cta,
                  CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN, device) ||
      !PROBE_CALL(gpu, cuDevicePrimaryCtxRetain, &context, device))
    return false;
  gpu->context = context;
  gpu->is_current = PROBE_CALL(gpu, cuCtxPushCurrent, context);
  return gpu->is_current && load_modules(gpu);
}

/* Nobody can be told of a failure here. */
void probe_close(probe_gpu *gpu) {
  CUcontext popped;
  for (int i = 0; i < gpu->num_modules; i++)
    gpu->driver->cuModuleUnload(gpu->modules[i]);
  if (gpu->is_current)
    gpu->driver->cuCtxPopCurrent(&popped);
  if (gpu->context != NULL)
    gpu->driver->cuDevicePrimaryCtxRelease(gpu->device->handle);
  *gpu = (probe_gpu){0};
}

void probe_describe_driver(const probe_gpu *gpu, char *text, size_t bytes) {
  const int version = gpu->driver->version;
  char release[64] = "";
  FILE *file = fopen("/sys/module/nvidia/version", "re");
  if (file != NULL) {
    if (fgets(release, sizeof release, file) == NULL)
      release[0] = '\0';
    fclose(file);
  }
  release[strcspn(release, "\n")] = '\0';
  snprintf(text, bytes, "driver%s%s for CUDA %d.%d", release[0] != '\0' ? " " : "", release, version / 1000,
           version % 1000 / 10);
}

bool probe_free_bytes(probe_gpu *gpu, size_t *bytes) {
  size_t all;
  return PROBE_CALL(gpu, cuMemGetInfo, bytes, &all);
}

/* ---- Kernels ------------------------------------------------------------------------------------ */

bool probe_find_kernel(probe_gpu *gpu, probe_image image, const char *name, int32_t shared_bytes,
                       probe_kernel *kernel) {
  int ptx_version;
  if (!PROBE_CALL(gpu, cuModuleGetFunction, &kernel->function, gpu->modules[image], name) ||
      (gpu->driver->cuFuncLoad != NULL && !PROBE_CALL(gpu, cuFuncLoad, kernel->function)) ||
      !PROBE_CALL(gpu, cuFuncGetAttribute, &ptx_version, CU_FUNC_ATTRIBUTE_PTX_VERSION, kernel->function))
    return false;
  kernel->is_for_90 = ptx_version >= PTX_FOR_90;
  return shared_bytes == 0 || PROBE_CALL(gpu, cuFuncSetAttribute, kernel->function,
                                         CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, shared_bytes);
}

bool probe_launch(probe_gpu *gpu, const probe_kernel *kernel, int32_t grid, int32_t block, int32_t shared_bytes,
                  void **parameters, CUstream stream) {
  return PROBE_CALL(gpu, cuLaunchKernel, kernel->function, (unsigned)grid, 1, 1, (unsigned)block, 1, 1,
                    (unsigned)shared_bytes, stream, parameters, NULL);
}

bool probe_fill(probe_gpu *gpu, void *to, uint64_t count, uint64_t seed, bool is_fp16, CUstream stream) {
  enum { CTAS_PER_SM = 8 };
  probe_kernel fill;
  int32_t fp16 = is_fp16;
  void *parameters[] = {&to, &count, &seed, &fp16};
  return probe_find_kernel(gpu, PROBE_IMAGE_fill, "probe_fill", 0, &fill) &&
         probe_launch(gpu, &fill, gpu->device->num_sms * CTAS_PER_SM, PROBE_FILL_THREADS, 0, parameters,
                      stream);
}
