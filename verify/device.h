/*
 * device.h: makes calls with tensors in host memory. The CPU uses them where they lie; a device with memory of
 * its own gets copies, and its outputs are copied back.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef VERIFY_DEVICE_H
#define VERIFY_DEVICE_H

#include "step.h"

/* What fmla_decode may find as its workspace; all of it guarded. */
typedef enum verify_workspace {
  VERIFY_WORKSPACE_NAN,        /* flush with the guard behind it, all bits set */
  VERIFY_WORKSPACE_ZERO,       /* flush with the guard before it, all bits clear */
  VERIFY_WORKSPACE_MISALIGNED, /* at an odd address */
} verify_workspace;

/* fmla_decode with exactly the workspace that fmla_decode_workspace asks for. */
fmla_status verify_device_decode(fmla_context *context, const verify_step *step, verify_workspace workspace);

fmla_status verify_device_merge(fmla_context *context, const fmla_merge_params *params);

#endif
