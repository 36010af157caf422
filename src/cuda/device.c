#include "cuda/device.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

enum { MAX_DEVICES = 64, LEAST_CAPABILITY = 80 };

/* Written once, under `once`. */
static pthread_once_t once = PTHREAD_ONCE_INIT;
static fmlai_cuda_device devices[MAX_DEVICES];
static int32_t num_devices;
static const char *absence;
static char absence_text[384];
static char needs[128];

/* A failed call leaves its words as the reason why there are no devices. */
static bool succeeds(const fmlai_cuda_driver *driver, const char *call, CUresult result) {
  if (result != CUDA_SUCCESS)
    fmlai_cuda_describe(driver, call, result, absence_text, sizeof absence_text);
  return result == CUDA_SUCCESS;
}

#define SUCCEEDS(driver, function, ...) succeeds(driver, #function, (driver)->function(__VA_ARGS__))

static bool read_attribute(const fmlai_cuda_driver *driver, CUdevice handle, CUdevice_attribute attribute,
                           int32_t *value) {
  return SUCCEEDS(driver, cuDeviceGetAttribute, value, attribute, handle);
}

/* For tests of what only smaller GPUs do: shared memory as if a CTA could have so many bytes, and an SM that
 * much. */
static void limit_shared(fmlai_cuda_device *d) {
  const char *text = secure_getenv("FMLA_CUDA_MAX_SHARED");
  const long bytes = text != NULL ? strtol(text, NULL, 10) : 0;
  if (bytes <= 0 || bytes >= d->shared_per_cta)
    return;
  d->shared_per_cta = (int32_t)bytes;
  d->shared_per_sm = d->shared_per_cta + d->shared_reserved;
}

static bool read_device(const fmlai_cuda_driver *driver, int32_t ordinal, fmlai_cuda_device *d) {
  int32_t major, minor;
  size_t memory_bytes;
  d->ordinal = ordinal;
  if (!SUCCEEDS(driver, cuDeviceGet, &d->handle, ordinal) ||
      !SUCCEEDS(driver, cuDeviceGetName, d->description, (int)sizeof d->description, d->handle) ||
      !SUCCEEDS(driver, cuDeviceTotalMem, &memory_bytes, d->handle) ||
      !read_attribute(driver, d->handle, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, &major) ||
      !read_attribute(driver, d->handle, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, &minor) ||
      !read_attribute(driver, d->handle, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, &d->num_sms) ||
      !read_attribute(driver, d->handle, CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN,
                      &d->shared_per_cta) ||
      !read_attribute(driver, d->handle, CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR,
                      &d->shared_per_sm) ||
      !read_attribute(driver, d->handle, CU_DEVICE_ATTRIBUTE_RESERVED_SHARED_MEMORY_PER_BLOCK,
                      &d->shared_reserved))
    return false;
  d->memory_bytes = memory_bytes;
  d->capability = major * 10 + minor;
  limit_shared(d);
  if (d->capability >= LEAST_CAPABILITY)
    return true;
  snprintf(absence_text, sizeof absence_text, "GPU %d (%s) has compute capability %d.%d, and 8.0 is needed",
           (int)ordinal, d->description, (int)major, (int)minor);
  return false;
}

static void read_devices(void) {
  const fmlai_cuda_driver *driver = fmlai_cuda_driver_get(&absence);
  int count = 0;
  snprintf(needs, sizeof needs, "an NVIDIA GPU of compute capability 8.0 or newer with %s",
           fmlai_cuda_driver_needed());
  if (driver == NULL)
    return;
  snprintf(absence_text, sizeof absence_text, "its driver knows no GPU");
  if (SUCCEEDS(driver, cuDeviceGetCount, &count))
    for (int32_t i = 0; i < count && num_devices < MAX_DEVICES; i++)
      num_devices += read_device(driver, i, &devices[num_devices]);
  absence = num_devices == 0 ? absence_text : NULL;
}

int32_t fmlai_cuda_num_devices(void) {
  pthread_once(&once, read_devices);
  return num_devices;
}

const fmlai_cuda_device *fmlai_cuda_device_at(int32_t index) {
  return &devices[index];
}

const char *fmlai_cuda_absence(void) {
  pthread_once(&once, read_devices);
  return absence;
}

const char *fmlai_cuda_device_needs(void) {
  pthread_once(&once, read_devices);
  return needs;
}
