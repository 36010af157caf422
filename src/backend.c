#include "backend.h"

#include "status.h"

#include <stdio.h>
#include <string.h>

/* One line for each backend. */
const fmlai_backend *const fmlai_backends[] = {
    &fmlai_cuda_backend,
    &fmlai_cpu_backend,
};
const int32_t fmlai_num_backends = sizeof fmlai_backends / sizeof fmlai_backends[0];

/* "cuda:1" is for "cuda". A backend that is not asked is not touched: counting devices may start a driver. */
static bool is_for(const char *name, const fmlai_backend *backend) {
  const size_t length = strlen(backend->name);
  return strncmp(name, backend->name, length) == 0 && (name[length] == '\0' || name[length] == ':');
}

fmla_status fmlai_find_device(const char *name, const fmlai_backend **backend, int32_t *device) {
  const bool any = name == NULL || strcmp(name, "auto") == 0;
  bool known = any;
  for (int32_t b = 0; b < fmlai_num_backends; b++) {
    if (!any && !is_for(name, fmlai_backends[b]))
      continue;
    known = true;
    const int32_t count = fmlai_backends[b]->device_count();
    if (count == 0 && !any)
      return FMLAI_FAIL(FMLA_ERROR_NO_DEVICE, "device is \"%.64s\", but %s", name,
                        fmlai_backends[b]->absence());
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
  if (!known)
    return FMLAI_FAIL(FMLA_ERROR_INVALID_ARGUMENT,
                      "device is \"%.64s\", but must be \"auto\", \"cpu\" or \"cuda:N\"", name);
  return FMLAI_FAIL(
      FMLA_ERROR_NO_DEVICE,
      "device is \"%.64s\", but this machine has no such device; fmla_get_device_info lists those there "
      "are, and \"auto\" takes the first",
      any ? "auto" : name);
}

void fmlai_report_choice(const fmla_context *context, const fmla_decode_params *params,
                         const fmlai_choice *choice) {
  if (context->debug)
    fprintf(stderr, "flashmla: decode of %d sequences, %d heads with kernel %s: %s\n", (int)params->batch_size,
            (int)params->num_q_heads, choice->kernel, choice->reason);
}
