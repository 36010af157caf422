#include "cuda/functions.h"

#include "cuda/error.h"

/* The code for the kernels' wait for the kernel before is in what was compiled for 9.0 or newer, not in what
   the driver makes of the PTX for 8.0; and from this driver on graphs take such launches. */
enum { CHAINED_PTX_VERSION = 90, CHAINED_DRIVER_VERSION = 12030 };

/* Hopper's take a driver that describes tensors to the copy engine. */
static bool is_for(const fmlai_cuda_driver *driver, const fmlai_cuda_device *device, int32_t image) {
  return !fmlai_cuda_is_hopper_image(image) ||
         (device->capability == 90 && driver->cuTensorMapEncodeTiled != NULL);
}

static fmla_status load_module(const fmlai_cuda_driver *driver, const fmlai_cuda_device *device, int32_t image,
                               CUmodule *module) {
  const CUresult result = driver->cuModuleLoadData(module, fmlai_cuda_images.images[image]);
  /* Hopper's have machine code alone: a driver that is told to compile everything finds nothing in them. */
  if (result == CUDA_ERROR_NO_BINARY_FOR_GPU && fmlai_cuda_is_hopper_image(image))
    return FMLA_OK;
  if (result != CUDA_ERROR_UNSUPPORTED_PTX_VERSION)
    return fmlai_cuda_status(driver, "cuModuleLoadData", result);
  const int toolkit = fmlai_cuda_images.toolkit;
  return FMLAI_FAIL(
      FMLA_ERROR_NO_DEVICE,
      "the GPU code is compiled by the driver for a GPU of compute capability %d.%d, but this driver is "
      "too old to (CUDA_ERROR_UNSUPPORTED_PTX_VERSION): needed is one for CUDA %d.%d or newer",
      (int)device->capability / 10, (int)device->capability % 10, toolkit / 1000, toolkit % 1000 / 10);
}

static fmla_status find_function(const fmlai_cuda_driver *driver, const fmlai_cuda_functions *f,
                                 fmlai_cuda_image image, const char *name, CUfunction *function) {
  FMLAI_TRY(FMLAI_CUDA_CALL(driver, cuModuleGetFunction, function, f->modules[image], name));
  /* The driver loads lazily; decoding must not. */
  return driver->cuFuncLoad == NULL ? FMLA_OK : FMLAI_CUDA_CALL(driver, cuFuncLoad, *function);
}

/* Lets the kernel have all shared memory that a CTA may have. */
static fmla_status prepare_decode(const fmlai_cuda_driver *driver, const fmlai_cuda_device *device,
                                  const fmlai_cuda_variant *variant, fmlai_cuda_decode_function *f) {
  int static_bytes;
  FMLAI_TRY(FMLAI_CUDA_CALL(driver, cuFuncGetAttribute, &static_bytes, CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES,
                            f->function));
  FMLAI_TRY(FMLAI_CUDA_CALL(driver, cuFuncSetAttribute, f->function,
                            CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                            device->shared_per_cta - static_bytes));
  FMLAI_TRY(FMLAI_CUDA_CALL(driver, cuFuncSetAttribute, f->function,
                            CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT, 100));
  return FMLAI_CUDA_CALL(driver, cuOccupancyMaxActiveBlocksPerMultiprocessor, &f->ctas_per_sm, f->function,
                         variant->warps * 32, 0);
}

fmla_status fmlai_cuda_functions_load(const fmlai_cuda_driver *driver, const fmlai_cuda_device *device,
                                      fmlai_cuda_functions *f) {
  for (int32_t i = 0; i < fmlai_cuda_images.num_images; i++) {
    if (is_for(driver, device, i))
      FMLAI_TRY(load_module(driver, device, i, &f->modules[i]));
    f->num_modules++;
  }
  for (int v = 0; v < FMLAI_CUDA_NUM_VARIANTS; v++)
    for (int type = 0; type < FMLAI_CUDA_NUM_TYPES; type++) {
      const fmlai_cuda_variant *variant = &fmlai_cuda_variants[v];
      if (f->modules[variant->image] == NULL)
        continue;
      FMLAI_TRY(
          find_function(driver, f, variant->image, variant->functions[type], &f->decode[v][type].function));
      FMLAI_TRY(prepare_decode(driver, device, variant, &f->decode[v][type]));
    }
  FMLAI_TRY(find_function(driver, f, FMLAI_CUDA_IMAGE_merge, "fmlai_merge_splits", &f->merge_splits));
  FMLAI_TRY(find_function(driver, f, FMLAI_CUDA_IMAGE_merge, "fmlai_merge_parts", &f->merge_parts));
  FMLAI_TRY(find_function(driver, f, FMLAI_CUDA_IMAGE_check_values, "fmlai_check_values", &f->check_values));
  int ptx_version;
  FMLAI_TRY(FMLAI_CUDA_CALL(driver, cuFuncGetAttribute, &ptx_version, CU_FUNC_ATTRIBUTE_PTX_VERSION,
                            f->merge_splits));
  f->chained = driver->cuLaunchKernelEx != NULL && driver->version >= CHAINED_DRIVER_VERSION &&
               ptx_version >= CHAINED_PTX_VERSION;
  return FMLA_OK;
}

void fmlai_cuda_functions_unload(const fmlai_cuda_driver *driver, fmlai_cuda_functions *f) {
  for (int32_t i = 0; i < f->num_modules; i++)
    if (f->modules[i] != NULL)
      driver->cuModuleUnload(f->modules[i]);
  f->num_modules = 0;
}
