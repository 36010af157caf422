/*
 * device.c: calls on a device.
 *
 * SPDX-License-Identifier: MIT
 */
#include "device.h"

#include "guard.h"
#include "number.h"
#include "placed.h"
#include "shape.h"

#include <stdbool.h>
#include <string.h>

static bool has_own_memory(const fmla_context *context) {
  fmla_context_info info = {.struct_size = sizeof info};
  return fmla_get_context_info(context, &info) == FMLA_OK && strcmp(info.device, "cpu") != 0;
}

/* ---- Decode ------------------------------------------------------------------------------------- */

static fmla_status decode_placed(verify_placed *placed, const verify_step *step, const void *workspace) {
  fmla_status status =
      fmla_buffer_upload(placed->context, placed->workspace, workspace, placed->workspace_bytes, NULL);
  if (status == FMLA_OK)
    status = verify_placed_decode(placed, NULL);
  return status == FMLA_OK ? verify_placed_read(placed, step, NULL) : status;
}

/* What the workspace holds on entry matters, so it is copied too. */
static fmla_status decode_with_copies(fmla_context *context, const verify_step *step, const void *workspace,
                                      size_t workspace_bytes) {
  verify_placed placed;
  fmla_status status = verify_place(context, step, workspace_bytes, &placed);
  if (status == FMLA_OK)
    status = decode_placed(&placed, step, workspace);
  const fmla_status freed = verify_unplace(&placed);
  return status == FMLA_OK ? freed : status;
}

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
  status = has_own_memory(context) ? decode_with_copies(context, step, memory, bytes)
                                   : fmla_decode(context, &step->params, memory, bytes, NULL);
  verify_guard_free(memory);
  return status;
}

/* ---- Merge -------------------------------------------------------------------------------------- */

enum { MAX_COPIES = 5 };

/* Copies of host memory on the device. */
typedef struct copies {
  fmla_context *context;
  void *device[MAX_COPIES];
  void *back_to[MAX_COPIES]; /* an output's host memory; else NULL */
  size_t bytes[MAX_COPIES];
  int count;
  fmla_status status; /* of the first call that failed */
} copies;

/* The device's copy of `host`, or NULL if there is nothing to copy or a call failed. */
static void *copy_in(copies *c, const void *host, size_t bytes, void *back_to) {
  if (host == NULL || bytes == 0 || c->status != FMLA_OK)
    return NULL;
  const int i = c->count;
  c->status = fmla_buffer_alloc(c->context, bytes, &c->device[i]);
  if (c->status != FMLA_OK)
    return NULL;
  c->back_to[i] = back_to;
  c->bytes[i] = bytes;
  c->count++;
  c->status = fmla_buffer_upload(c->context, c->device[i], host, bytes, NULL);
  return c->device[i];
}

static void copy_out_and_free(copies *c) {
  for (int i = 0; i < c->count; i++) {
    if (c->back_to[i] != NULL && c->status == FMLA_OK)
      c->status = fmla_buffer_download(c->context, c->back_to[i], c->device[i], c->bytes[i], NULL);
    const fmla_status freed = fmla_buffer_free(c->context, c->device[i]);
    c->status = c->status == FMLA_OK ? freed : c->status;
  }
}

/* Elements from a tensor's first to its last: four dimensions, and `row` elements behind them. */
static int64_t span(const int64_t extents[4], const int64_t strides[4], int64_t row) {
  int64_t last = 0;
  for (int i = 0; i < 4; i++) {
    if (extents[i] == 0)
      return 0;
    last += (extents[i] - 1) * strides[i];
  }
  return last + row;
}

static fmla_status merge_with_copies(fmla_context *context, const fmla_merge_params *given) {
  copies c = {.context = context};
  fmla_merge_params p = *given;
  verify_resolve_merge(&p);
  const int64_t parts[4] = {p.num_parts, p.batch_size, p.seqlen_q, p.num_q_heads};
  const int64_t whole[4] = {1, p.batch_size, p.seqlen_q, p.num_q_heads};
  const int64_t out_parts[4] = {p.out_parts_stride_part, p.out_parts_stride_batch, p.out_parts_stride_token,
                                p.out_parts_stride_head};
  const int64_t lse_parts[4] = {p.lse_parts_stride_part, p.lse_parts_stride_batch, p.lse_parts_stride_token,
                                p.lse_parts_stride_head};
  const int64_t out[4] = {0, p.out_stride_batch, p.out_stride_token, p.out_stride_head};
  const int64_t lse[4] = {0, p.lse_stride_batch, p.lse_stride_token, p.lse_stride_head};
  const size_t part_bytes = verify_dtype_bytes(p.part_dtype), out_bytes = verify_dtype_bytes(p.out_dtype);
  p.out_parts = copy_in(&c, p.out_parts, (size_t)span(parts, out_parts, p.head_dim_v) * part_bytes, NULL);
  p.lse_parts = copy_in(&c, p.lse_parts, (size_t)span(parts, lse_parts, 1) * sizeof(float), NULL);
  p.sink = copy_in(&c, p.sink, (size_t)p.num_q_heads * sizeof(float), NULL);
  p.out = copy_in(&c, p.out, (size_t)span(whole, out, p.head_dim_v) * out_bytes, p.out);
  p.lse = copy_in(&c, p.lse, (size_t)span(whole, lse, 1) * sizeof(float), p.lse);
  if (c.status == FMLA_OK)
    c.status = fmla_merge(context, &p, NULL);
  if (c.status == FMLA_OK)
    c.status = fmla_stream_synchronize(context, NULL);
  copy_out_and_free(&c);
  return c.status;
}

fmla_status verify_device_merge(fmla_context *context, const fmla_merge_params *params) {
  return has_own_memory(context) ? merge_with_copies(context, params) : fmla_merge(context, params, NULL);
}
