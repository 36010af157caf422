/*
 * placed.h: a step in the memory of a device, to be decoded there again and again.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef VERIFY_PLACED_H
#define VERIFY_PLACED_H

#include "step.h"

typedef struct verify_placed {
  fmla_context *context;
  fmla_decode_params params; /* pointing to the device's memory */
  verify_tensor tensors[VERIFY_NUM_TENSORS];
  void *workspace;
  size_t workspace_bytes;
  void *buffers[VERIFY_NUM_TENSORS + 1]; /* what the tensors and the workspace lie in */
} verify_placed;

/* Copies of all tensors, and a workspace of any content. verify_unplace in every case. */
fmla_status verify_place(fmla_context *context, const verify_step *step, size_t workspace_bytes,
                         verify_placed *placed);
fmla_status verify_unplace(verify_placed *placed);

/* The same with the workspace that fmla_decode_workspace asks for, full of NaN. */
fmla_status verify_place_all(fmla_context *context, const verify_step *step, verify_placed *placed);

/* Other values for a tensor; of the size that it has. */
fmla_status verify_placed_write(const verify_placed *placed, verify_tensor_id id, const void *values);
fmla_status verify_placed_spoil_workspace(const verify_placed *placed);

/* Enqueues fmla_decode. */
fmla_status verify_placed_decode(const verify_placed *placed, void *stream);

/* The outputs, to the memory of `step`, once the stream's work is done. */
fmla_status verify_placed_read(const verify_placed *placed, const verify_step *step, void *stream);

/* Whether nothing was written just before or behind the outputs and the workspace. */
fmla_status verify_placed_look(const verify_placed *placed, bool *intact);

#endif
