#include "backend.h"

#include "status.h"

#include <string.h>

/* One line for each backend. */
const fmlai_backend *const fmlai_backends[] = {
    &fmlai_cpu_backend,
};
const int32_t fmlai_num_backends = sizeof fmlai_backends / sizeof fmlai_backends[0];

fmla_status fmlai_find_device(const char *name, const fmlai_backend **backend, int32_t *device) {
  const bool any = name == NULL || strcmp(name, "auto") == 0;
  for (int32_t b = 0; b < fmlai_num_backends; b++) {
    const int32_t count = fmlai_backends[b]->device_count();
    for (int32_t d = 0; d < count; d++) {
      fmla_device_info info = {.struct_size = sizeof info};
      fmlai_backends[b]->device_info(d, &info);
      if (any || strcmp(name, info.name) == 0) {
        *backend = fmlai_backends[b];
        *device = d;
        return FMLA_OK;
      }
    }
  }
  return FMLAI_FAIL(
      FMLA_ERROR_NO_DEVICE,
      "device is \"%.64s\", but this machine and build have no such device; fmla_get_device_info lists "
      "those there are, and \"auto\" takes the first",
      any ? "auto" : name);
}
