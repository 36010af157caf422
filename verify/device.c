/*
 * device.c: calls on a device.
 *
 * SPDX-License-Identifier: MIT
 */
#include "device.h"

#include "guard.h"

fmla_status verify_device_decode(fmla_context *context, const verify_step *step, verify_workspace workspace) {
  size_t bytes = 0;
  fmla_status status = fmla_decode_workspace(context, &step->params, &bytes);
  if (status != FMLA_OK)
    return status;
  if (workspace == VERIFY_WORKSPACE_MISALIGNED)
    bytes |= 1; /* and so is the address, because the end is a page's */
  unsigned char *memory =
      verify_guard_alloc(bytes, workspace == VERIFY_WORKSPACE_ZERO ? VERIFY_GUARD_BEFORE : VERIFY_GUARD_BEHIND);
  if (memory == NULL)
    return FMLA_ERROR_OUT_OF_MEMORY;
  if (workspace == VERIFY_WORKSPACE_ZERO)
    memset(memory, 0, bytes);
  status = fmla_decode(context, &step->params, memory, bytes, NULL);
  verify_guard_free(memory);
  return status;
}

fmla_status verify_device_merge(fmla_context *context, const fmla_merge_params *params) {
  return fmla_merge(context, params, NULL);
}
