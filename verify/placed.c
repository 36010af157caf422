/*
 * placed.c: what is written to lies between margins, all bits set.
 *
 * SPDX-License-Identifier: MIT
 */
#include "placed.h"

#include <stdlib.h>
#include <string.h>

enum { MARGIN = 256 }; /* the alignment of buffers, so that what lies between them is as aligned */

static fmla_status write(fmla_context *context, void *to, const void *from, size_t bytes) {
  return bytes > 0 ? fmla_buffer_upload(context, to, from, bytes, NULL) : FMLA_OK;
}

static fmla_status fill_with_ones(fmla_context *context, void *to, size_t bytes) {
  void *ones = malloc(bytes);
  if (ones == NULL)
    return FMLA_ERROR_OUT_OF_MEMORY;
  memset(ones, 0xff, bytes);
  const fmla_status status = write(context, to, ones, bytes);
  free(ones);
  return status;
}

/* An output between margins, uploaded with them at once. */
static fmla_status place_output(fmla_context *context, const verify_tensor *tensor, void **buffer) {
  const size_t bytes = tensor->bytes + 2 * (size_t)MARGIN;
  char *framed = malloc(bytes);
  if (framed == NULL)
    return FMLA_ERROR_OUT_OF_MEMORY;
  memset(framed, 0xff, bytes);
  memcpy(framed + MARGIN, tensor->data, tensor->bytes);
  fmla_status status = fmla_buffer_alloc(context, bytes, buffer);
  if (status == FMLA_OK)
    status = write(context, *buffer, framed, bytes);
  free(framed);
  return status;
}

static fmla_status place_tensor(verify_placed *placed, const verify_step *step, verify_tensor_id id,
                                verify_step *there) {
  const verify_tensor *tensor = &step->tensors[id];
  void **buffer = &placed->buffers[id];
  fmla_status status = FMLA_OK;
  if (tensor->data != NULL && id >= VERIFY_OUT) {
    status = place_output(placed->context, tensor, buffer);
  } else if (tensor->data != NULL) {
    status = fmla_buffer_alloc(placed->context, tensor->bytes, buffer);
    if (status == FMLA_OK)
      status = write(placed->context, *buffer, tensor->data, tensor->bytes);
  }
  const bool has_margin = *buffer != NULL && id >= VERIFY_OUT;
  verify_step_set(there, id, has_margin ? (char *)*buffer + MARGIN : *buffer, tensor->bytes);
  return status;
}

static fmla_status place_workspace(verify_placed *placed) {
  const size_t bytes = placed->workspace_bytes;
  void **buffer = &placed->buffers[VERIFY_NUM_TENSORS];
  fmla_status status = fmla_buffer_alloc(placed->context, bytes + 2 * (size_t)MARGIN, buffer);
  if (status != FMLA_OK)
    return status;
  char *start = *buffer;
  placed->workspace = start + MARGIN;
  status = fill_with_ones(placed->context, start, MARGIN);
  return status == FMLA_OK ? fill_with_ones(placed->context, start + MARGIN + bytes, MARGIN) : status;
}

fmla_status verify_place(fmla_context *context, const verify_step *step, size_t workspace_bytes,
                         verify_placed *placed) {
  *placed = (verify_placed){.context = context, .workspace_bytes = workspace_bytes};
  verify_step there = *step;
  fmla_status status = FMLA_OK;
  for (int id = 0; id < VERIFY_NUM_TENSORS && status == FMLA_OK; id++)
    status = place_tensor(placed, step, (verify_tensor_id)id, &there);
  memcpy(placed->tensors, there.tensors, sizeof placed->tensors);
  placed->params = there.params;
  return status == FMLA_OK ? place_workspace(placed) : status;
}

fmla_status verify_place_all(fmla_context *context, const verify_step *step, verify_placed *placed) {
  size_t bytes;
  *placed = (verify_placed){.context = context};
  fmla_status status = fmla_decode_workspace(context, &step->params, &bytes);
  if (status == FMLA_OK)
    status = verify_place(context, step, bytes, placed);
  return status == FMLA_OK ? verify_placed_spoil_workspace(placed) : status;
}

fmla_status verify_unplace(verify_placed *placed) {
  fmla_status status = FMLA_OK;
  for (int i = 0; i <= VERIFY_NUM_TENSORS; i++) {
    const fmla_status freed = fmla_buffer_free(placed->context, placed->buffers[i]);
    status = status == FMLA_OK ? freed : status;
  }
  *placed = (verify_placed){0};
  return status;
}

fmla_status verify_placed_write(const verify_placed *placed, verify_tensor_id id, const void *values) {
  return write(placed->context, placed->tensors[id].data, values, placed->tensors[id].bytes);
}

fmla_status verify_placed_spoil_workspace(const verify_placed *placed) {
  return placed->workspace_bytes > 0
             ? fill_with_ones(placed->context, placed->workspace, placed->workspace_bytes)
             : FMLA_OK;
}

fmla_status verify_placed_decode(const verify_placed *placed, void *stream) {
  return fmla_decode(placed->context, &placed->params, placed->workspace, placed->workspace_bytes, stream);
}

fmla_status verify_placed_read(const verify_placed *placed, const verify_step *step, void *stream) {
  fmla_status status = fmla_stream_synchronize(placed->context, stream);
  for (int id = VERIFY_OUT; id <= VERIFY_LSE && status == FMLA_OK; id++)
    if (placed->tensors[id].bytes > 0)
      status = fmla_buffer_download(placed->context, step->tensors[id].data, placed->tensors[id].data,
                                    placed->tensors[id].bytes, stream);
  return status;
}

/* ---- Margins ------------------------------------------------------------------------------------ */

static fmla_status look_at_margin(const verify_placed *placed, const void *margin, bool *intact) {
  unsigned char bytes[MARGIN];
  const fmla_status status = fmla_buffer_download(placed->context, bytes, margin, MARGIN, NULL);
  for (int i = 0; i < MARGIN; i++)
    *intact = *intact && bytes[i] == 0xff;
  return status;
}

fmla_status verify_placed_look(const verify_placed *placed, bool *intact) {
  fmla_status status = FMLA_OK;
  *intact = true;
  for (int i = VERIFY_OUT; i <= VERIFY_NUM_TENSORS && status == FMLA_OK; i++) {
    const char *start = placed->buffers[i];
    const size_t bytes = i < VERIFY_NUM_TENSORS ? placed->tensors[i].bytes : placed->workspace_bytes;
    if (start == NULL)
      continue;
    status = look_at_margin(placed, start, intact);
    if (status == FMLA_OK)
      status = look_at_margin(placed, start + MARGIN + bytes, intact);
  }
  return status;
}
