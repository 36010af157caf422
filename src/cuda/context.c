#include "cuda/context.h"

#include "cuda/error.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

fmla_status fmlai_cuda_enter(const fmlai_cuda_context *c) {
  return FMLAI_CUDA_CALL(c->driver, cuCtxPushCurrent, c->cuda_context);
}

fmla_status fmlai_cuda_leave(const fmlai_cuda_context *c, fmla_status status) {
  CUcontext popped;
  const CUresult result = c->driver->cuCtxPopCurrent(&popped);
  return status != FMLA_OK ? status : fmlai_cuda_status(c->driver, "cuCtxPopCurrent", result);
}

static fmla_status find_kernel(const char *name, int32_t *only) {
  *only = -1;
  if (name == NULL)
    return FMLA_OK;
  for (int32_t i = 0; i < FMLAI_CUDA_NUM_VARIANTS; i++)
    if (strcmp(name, fmlai_cuda_variants[i].name) == 0)
      *only = i;
  if (*only >= 0)
    return FMLA_OK;
  return FMLAI_FAIL(
      FMLA_ERROR_UNSUPPORTED,
      "kernel is \"%.64s\", but GPUs have no such kernel; fmla_get_kernel_info lists those there are", name);
}

static fmla_status bind(fmlai_cuda_context *c) {
  CUcontext current = NULL;
  FMLAI_TRY(FMLAI_CUDA_CALL(c->driver, cuCtxGetCurrent, &current));
  if (current != NULL) {
    CUdevice device;
    FMLAI_TRY(FMLAI_CUDA_CALL(c->driver, cuCtxGetDevice, &device));
    if (device == c->device->handle) {
      c->cuda_context = current;
      return FMLA_OK;
    }
  }
  FMLAI_TRY(FMLAI_CUDA_CALL(c->driver, cuDevicePrimaryCtxRetain, &c->cuda_context, c->device->handle));
  c->is_primary = true;
  return FMLA_OK;
}

static fmla_status bind_and_load(fmlai_cuda_context *c) {
  FMLAI_TRY(bind(c));
  FMLAI_TRY(fmlai_cuda_enter(c));
  FMLAI_TRY(fmlai_cuda_leave(c, fmlai_cuda_functions_load(c->driver, c->device, &c->functions)));
  if (c->only < 0 || c->functions.decode[c->only][0].function != NULL)
    return FMLA_OK;
  return FMLAI_FAIL(FMLA_ERROR_UNSUPPORTED, "kernel is \"%s\", which this device cannot run",
                    fmlai_cuda_variants[c->only].name);
}

/* Gives back all that was had, in the order of need; nobody can be told of a failure here. */
void fmlai_cuda_context_close(fmla_context *context) {
  fmlai_cuda_context *c = (fmlai_cuda_context *)context;
  CUcontext popped;
  if (c->functions.num_modules > 0 && c->driver->cuCtxPushCurrent(c->cuda_context) == CUDA_SUCCESS) {
    fmlai_cuda_functions_unload(c->driver, &c->functions);
    c->driver->cuCtxPopCurrent(&popped);
  }
  if (c->is_primary)
    c->driver->cuDevicePrimaryCtxRelease(c->device->handle);
  free(c);
}

fmla_status fmlai_cuda_context_open(const fmla_config *config, int32_t device, fmla_context **context) {
  int32_t only;
  const char *absence;
  FMLAI_TRY(find_kernel(config->kernel, &only));
  fmlai_cuda_context *c = calloc(1, sizeof *c);
  if (c == NULL)
    return FMLAI_FAIL(FMLA_ERROR_OUT_OF_MEMORY, "no memory for a context of %zu bytes", sizeof *c);
  c->driver = fmlai_cuda_driver_get(&absence);
  c->device = fmlai_cuda_device_at(device);
  c->only = only;
  c->base.backend = &fmlai_cuda_backend;
  c->base.info.num_sms = c->device->num_sms;
  snprintf(c->base.info.device, sizeof c->base.info.device, "cuda:%d", (int)c->device->ordinal);
  const fmla_status status = bind_and_load(c);
  if (status != FMLA_OK) {
    fmlai_cuda_context_close(&c->base);
    return status;
  }
  *context = &c->base;
  return FMLA_OK;
}
