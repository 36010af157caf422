/*
 * step.h: the tensors of a case, in guarded host memory. Every byte that a decode must not use is NaN: pages
 * and slots that no sequence names, gaps between rows, rows of q behind the last sequence, outputs before the
 * call.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef VERIFY_STEP_H
#define VERIFY_STEP_H

#include "cases.h"

/* The tensors that a call points to. */
typedef enum verify_tensor_id {
  VERIFY_Q,
  VERIFY_Q_ROPE,
  VERIFY_KV_CACHE,
  VERIFY_BLOCK_TABLE,
  VERIFY_CACHE_SEQLENS,
  VERIFY_CU_SEQLENS_Q,
  VERIFY_SINK,
  VERIFY_OUT, /* the outputs come last */
  VERIFY_LSE,
  VERIFY_NUM_TENSORS
} verify_tensor_id;

typedef struct verify_tensor {
  void *data; /* NULL: the call has no such tensor */
  size_t bytes;
} verify_tensor;

typedef struct verify_step {
  fmla_decode_params params; /* pointing to the tensors */
  verify_tensor tensors[VERIFY_NUM_TENSORS];
} verify_step;

/* Builds the step; its inputs are read-only then. Returns 0, or -1 when memory ran out. */
int verify_step_build(const verify_case *c, verify_step *step);
void verify_step_free(verify_step *step);

/* The same call with outputs of its own. Returns 0, or -1 when memory ran out; verify_step_drop_outputs in both
   cases. */
int verify_step_new_outputs(const verify_step *from, verify_step *to);
void verify_step_drop_outputs(verify_step *step);

/* Whether the outputs have the same bytes, gaps included. */
bool verify_step_same_outputs(const verify_step *a, const verify_step *b);

/* Replaces an input by a copy that may be written, which the caller frees. Returns 0, or -1 when memory ran
 * out. */
int verify_step_own(verify_step *step, verify_tensor_id id);

/* Points one tensor of the call to other memory. */
void verify_step_set(verify_step *step, verify_tensor_id id, void *data, size_t bytes);

/* Gives the call a new tensor of that size, all NaN; `behind`: flush with the guard page behind it. The caller
   frees step->tensors[id].data by verify_guard_free(). Returns 0, or -1 when memory ran out. */
int verify_step_renew(verify_step *step, verify_tensor_id id, size_t bytes, bool behind);

#endif
