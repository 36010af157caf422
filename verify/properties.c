/*
 * properties.c: calls whose results must have the same bits, and the size of the workspace.
 *
 * SPDX-License-Identifier: MIT
 */
#include "properties.h"

#include "device.h"
#include "guard.h"
#include "number.h"
#include "shape.h"

/* ---- Rows --------------------------------------------------------------------------------------- */

static bool same_elements(const void *a, int64_t index_a, const void *b, int64_t index_b, int32_t dtype,
                          int32_t count) {
  size_t bytes = verify_dtype_bytes(dtype);
  return memcmp((const char *)a + index_a * (int64_t)bytes, (const char *)b + index_b * (int64_t)bytes,
                (size_t)count * bytes) == 0;
}

/* Whether one row has the same bits in the results of two resolved calls of the same types. */
static bool same_row(const fmla_decode_params *a, const verify_query *query_a, const fmla_decode_params *b,
                     const verify_query *query_b, int32_t head) {
  return same_elements(a->out, verify_out_offset(a, query_a, head), b->out, verify_out_offset(b, query_b, head),
                       a->out_dtype, a->head_dim_v) &&
         (a->lse == NULL || same_elements(a->lse, verify_lse_offset(a, query_a, head), b->lse,
                                          verify_lse_offset(b, query_b, head), FMLA_DTYPE_FP32, 1));
}

/* ---- The same call again ----------------------------------------------------------------------- */

static verify_outcome run_again(const verify_run *run, fmla_context *context, verify_workspace workspace,
                                const char *what) {
  verify_step again;
  verify_outcome outcome = VERIFY_NO_MEMORY;
  if (verify_step_new_outputs(run->step, &again) == 0) {
    fmla_status status = verify_device_decode(context, &again, workspace);
    if (status != FMLA_OK)
      outcome = verify_call_failed(run, what, status);
    else if (!verify_step_same_outputs(&again, run->step))
      outcome = verify_fail(run, "%s gave other bits", what);
    else
      outcome = VERIFY_PASSED;
  }
  verify_step_drop_outputs(&again);
  return outcome;
}

verify_outcome verify_second_run(const verify_run *run) {
  return run_again(run, run->target->context, VERIFY_WORKSPACE_MISALIGNED, "a second run");
}

verify_outcome verify_other_threads(const verify_run *run) {
  if (run->target->other_threads == NULL)
    return VERIFY_PASSED;
  return run_again(run, run->target->other_threads, VERIFY_WORKSPACE_ZERO,
                   "a run with another number of threads");
}

/* ---- Batch invariance -------------------------------------------------------------------------- */

/* Moves the start of a tensor on by `elements`; where only a gap would follow, to the end. */
static void advance(verify_step *step, verify_tensor_id id, int64_t elements, size_t element_bytes) {
  size_t bytes = (size_t)elements * element_bytes;
  verify_tensor *tensor = &step->tensors[id];
  bytes = bytes < tensor->bytes ? bytes : tensor->bytes;
  if (tensor->data != NULL)
    verify_step_set(step, id, (char *)tensor->data + bytes, tensor->bytes - bytes);
}

/* Leaves one sequence of a resolved step, with the extents that it would have without the others: packed
   outputs, its own longest q, no more columns of the table than it has pages. `starts` is for its
   cu_seqlens_q. */
static void keep_one_sequence(verify_step *step, int32_t sequence, int32_t starts[2]) {
  fmla_decode_params *p = &step->params;
  int64_t batch_row = sequence, token_row = 0;
  if (p->cu_seqlens_q != NULL) {
    batch_row = 0;
    token_row = p->cu_seqlens_q[sequence];
    starts[0] = 0;
    starts[1] = p->max_seqlen_q = p->cu_seqlens_q[sequence + 1] - p->cu_seqlens_q[sequence];
    verify_step_set(step, VERIFY_CU_SEQLENS_Q, starts, 2 * sizeof *starts);
  }
  advance(step, VERIFY_Q, batch_row * p->q_stride_batch + token_row * p->q_stride_token, 2);
  advance(step, VERIFY_Q_ROPE, batch_row * p->q_rope_stride_batch + token_row * p->q_rope_stride_token, 2);
  advance(step, VERIFY_BLOCK_TABLE, sequence * p->block_table_stride, sizeof(int32_t));
  advance(step, VERIFY_CACHE_SEQLENS, sequence, sizeof(int32_t));
  p->batch_size = 1;
  p->total_q = p->max_seqlen_q;
  p->max_seqlen_k = 0;
  p->max_pages_per_seq = (p->cache_seqlens[0] + p->page_size - 1) / p->page_size;
  p->out_stride_batch = p->out_stride_token = p->out_stride_head = FMLA_PACKED;
  p->lse_stride_batch = p->lse_stride_token = p->lse_stride_head = FMLA_PACKED;
}

/* `all` and `alone` are resolved. */
static verify_outcome compare_alone(const verify_run *run, const fmla_decode_params *all,
                                    const fmla_decode_params *alone, int32_t sequence) {
  for (int64_t i = 0; i < verify_num_queries(all); i++) {
    verify_query query = verify_query_at(all, i);
    if (query.sequence != sequence)
      continue;
    verify_query query_alone = verify_query_at(alone, query.token);
    for (int32_t head = 0; head < all->num_q_heads; head++)
      if (!same_row(all, &query, alone, &query_alone, head))
        return verify_fail(run, "sequence %d, query token %lld, head %d has other bits alone than in the batch",
                           (int)sequence, (long long)query.token, (int)head);
  }
  return VERIFY_PASSED;
}

static verify_outcome run_alone(const verify_run *run, const fmla_decode_params *all, int32_t sequence) {
  verify_step alone = *run->step;
  int32_t starts[2];
  alone.params = *all;
  keep_one_sequence(&alone, sequence, starts);
  size_t rows = (size_t)alone.params.max_seqlen_q * (size_t)all->num_q_heads;
  size_t out_bytes = rows * (size_t)all->head_dim_v * verify_dtype_bytes(all->out_dtype);
  bool has_lse = all->lse != NULL;
  verify_step_set(&alone, VERIFY_LSE, NULL, 0);
  verify_outcome outcome = VERIFY_NO_MEMORY;
  if (verify_step_renew(&alone, VERIFY_OUT, out_bytes, true) == 0 &&
      (!has_lse || verify_step_renew(&alone, VERIFY_LSE, rows * sizeof(float), true) == 0)) {
    fmla_status status = verify_device_decode(run->target->context, &alone, VERIFY_WORKSPACE_NAN);
    verify_resolve_decode(&alone.params);
    outcome = status == FMLA_OK ? compare_alone(run, all, &alone.params, sequence)
                                : verify_call_failed(run, "one sequence alone", status);
  }
  verify_step_drop_outputs(&alone);
  return outcome;
}

verify_outcome verify_batch_invariance(const verify_run *run) {
  verify_outcome outcome = VERIFY_PASSED;
  if ((run->c->flags & FMLA_BATCH_INVARIANT) == 0)
    return outcome;
  fmla_decode_params all = run->step->params;
  verify_resolve_decode(&all);
  for (int32_t i = 0; outcome == VERIFY_PASSED && i < all.batch_size; i++)
    outcome = run_alone(run, &all, i);
  return outcome;
}

/* ---- Isolation --------------------------------------------------------------------------------- */

/* All bits of a row of 16-bit elements set: NaN. */
static void spoil(verify_step *step, verify_tensor_id id, int64_t offset, int32_t dim) {
  memset((char *)step->tensors[id].data + offset * 2, 0xff, (size_t)dim * 2);
}

/* NaN into the queries of a sequence, and into its keys if they are its own. */
static void spoil_sequence(verify_step *step, const fmla_decode_params *p, int32_t sequence, bool keys_too) {
  for (int64_t i = 0; i < verify_num_queries(p); i++) {
    verify_query query = verify_query_at(p, i);
    for (int32_t head = 0; query.sequence == sequence && head < p->num_q_heads; head++) {
      spoil(step, VERIFY_Q, verify_q_offset(p, &query, head), verify_q_dim(p));
      if (p->q_rope != NULL)
        spoil(step, VERIFY_Q_ROPE, verify_q_rope_offset(p, &query, head), p->head_dim_rope);
    }
  }
  for (int64_t key = 0; keys_too && key < p->cache_seqlens[sequence]; key++)
    for (int32_t head = 0; head < p->num_kv_heads; head++)
      spoil(step, VERIFY_KV_CACHE, verify_kv_offset(p, sequence, key, head), p->head_dim_k);
}

static verify_outcome compare_others(const verify_run *run, const verify_step *spoilt, int32_t sequence) {
  fmla_decode_params a = run->step->params, b = spoilt->params;
  verify_resolve_decode(&a);
  verify_resolve_decode(&b);
  for (int64_t i = 0; i < verify_num_queries(&a); i++) {
    verify_query query = verify_query_at(&a, i);
    for (int32_t head = 0; query.sequence != sequence && head < a.num_q_heads; head++)
      if (!same_row(&a, &query, &b, &query, head))
        return verify_fail(run, "sequence %d, query token %lld, head %d changes when sequence %d is NaN",
                           (int)query.sequence, (long long)query.token, (int)head, (int)sequence);
  }
  return VERIFY_PASSED;
}

verify_outcome verify_isolation(const verify_run *run) {
  const verify_case *c = run->c;
  if (c->batch_size < 2 || c->strides == VERIFY_STRIDES_REPEAT) /* where q and pages are everybody's */
    return VERIFY_PASSED;
  if (c->strides == VERIFY_STRIDES_FAR) /* too large to copy */
    return VERIFY_PASSED;
  int32_t sequence = (int32_t)(c->seed % (uint64_t)c->batch_size);
  verify_step spoilt;
  verify_outcome outcome = VERIFY_NO_MEMORY;
  bool have_outputs = verify_step_new_outputs(run->step, &spoilt) == 0;
  bool own_q = have_outputs && verify_step_own(&spoilt, VERIFY_Q) == 0;
  bool own_q_rope = own_q && verify_step_own(&spoilt, VERIFY_Q_ROPE) == 0;
  bool own_keys = own_q_rope && verify_step_own(&spoilt, VERIFY_KV_CACHE) == 0;
  if (own_keys) {
    fmla_decode_params p = spoilt.params;
    verify_resolve_decode(&p);
    spoil_sequence(&spoilt, &p, sequence, !c->shared_pages);
    fmla_status status = verify_device_decode(run->target->context, &spoilt, VERIFY_WORKSPACE_NAN);
    outcome = status == FMLA_OK ? compare_others(run, &spoilt, sequence)
                                : verify_call_failed(run, "a run with NaN in a sequence", status);
  }
  if (own_q)
    verify_guard_free(spoilt.tensors[VERIFY_Q].data);
  if (own_q_rope)
    verify_guard_free(spoilt.tensors[VERIFY_Q_ROPE].data);
  if (own_keys)
    verify_guard_free(spoilt.tensors[VERIFY_KV_CACHE].data);
  verify_step_drop_outputs(&spoilt);
  return outcome;
}

/* ---- Workspace --------------------------------------------------------------------------------- */

verify_outcome verify_workspace_size(const verify_run *run) {
  if (run->c->strides != VERIFY_STRIDES_PACKED) /* given strides do not fit larger extents */
    return VERIFY_PASSED;
  fmla_decode_params p = run->step->params;
  size_t before = 0, after = 0;
  fmla_status status = fmla_decode_workspace(run->target->context, &p, &before);
  /* Not head dims: for others, another kernel may be chosen. */
  int32_t *const extents[] = {&p.batch_size,        &p.num_q_heads,  &p.max_seqlen_q,
                              &p.max_pages_per_seq, &p.max_seqlen_k, &p.page_size};
  for (size_t i = 0; i < sizeof extents / sizeof extents[0] && status == FMLA_OK; i++) {
    const fmla_decode_params smaller = p;
    *extents[i] += extents[i] == &p.num_q_heads ? p.num_kv_heads : 1 + *extents[i] / 4;
    if (p.num_q_heads > FMLA_MAX_HEADS || (extents[i] == &p.max_seqlen_k && smaller.max_seqlen_k == 0)) {
      p = smaller; /* not a call, or 0 stood for the largest */
      continue;
    }
    p.total_q = p.cu_seqlens_q != NULL ? p.total_q + 1 : 0;
    status = fmla_decode_workspace(run->target->context, &p, &after);
    if (status == FMLA_ERROR_UNSUPPORTED) { /* the device has a rule of its own */
      p = smaller;
      status = FMLA_OK;
      continue;
    }
    if (status == FMLA_OK && after < before)
      return verify_fail(run, "the workspace shrinks from %zu to %zu bytes when extent %zu grows", before,
                         after, i);
    before = after;
  }
  return status == FMLA_OK ? VERIFY_PASSED : verify_call_failed(run, "fmla_decode_workspace", status);
}
