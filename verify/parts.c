/*
 * parts.c: decodes a case's keys in several parts, as ranks of a context-parallel group would, and merges them.
 *
 * SPDX-License-Identifier: MIT
 */
#include "properties.h"

#include "compare.h"
#include "device.h"
#include "guard.h"
#include "number.h"
#include "shape.h"

/* A case in parts. Part k has the k-th share of each sequence's pages. */
typedef struct parts {
  int32_t count;
  int32_t dtype;      /* of the parts' out */
  verify_step part;   /* the call that computes a part: its table, lengths, out and lse are set for each */
  int32_t *table;     /* [batch_size, max_pages_per_seq] */
  int32_t *lengths;   /* [batch_size] */
  char *out;          /* [count, the case's queries, heads, head_dim_v] */
  float *lse;         /* [count, ...] as the case has them */
  verify_step merged; /* the case's call, with outputs for the merge */
} parts;

/* The rows of one part, and the bytes of their out. */
static size_t rows_of(const parts *s) {
  return (size_t)verify_num_queries(&s->part.params) * (size_t)s->part.params.num_q_heads;
}

static size_t out_bytes_of(const parts *s) {
  return rows_of(s) * (size_t)s->part.params.head_dim_v * verify_dtype_bytes(s->dtype);
}

static void set_up_calls(parts *s, const verify_run *run) {
  s->count = (int32_t)(run->c->seed % 7) + 1;
  s->dtype = run->c->seed % 5 == 4 ? run->c->dtype : FMLA_DTYPE_FP32;
  s->part = s->merged = *run->step;
  fmla_decode_params *p = &s->part.params;
  verify_resolve_decode(p);
  p->flags &= ~FMLA_CAUSAL;                        /* one query sees all keys anyway */
  verify_step_set(&s->part, VERIFY_SINK, NULL, 0); /* is given to the merge alone */
  p->out_dtype = s->dtype;
  p->max_seqlen_k = 0;
  p->block_table_stride = FMLA_PACKED;
  p->out_stride_batch = p->out_stride_token = p->out_stride_head = FMLA_PACKED;
  p->lse_stride_batch = p->lse_stride_token = p->lse_stride_head = FMLA_PACKED;
}

/* Returns 0, or -1 when memory ran out; free_parts() in both cases. */
static int alloc_parts(parts *s) {
  const fmla_decode_params *p = &s->part.params;
  size_t batch = (size_t)p->batch_size, count = (size_t)s->count,
         lse_bytes = s->merged.tensors[VERIFY_LSE].bytes;
  bool has_lse = s->merged.tensors[VERIFY_LSE].data != NULL;
  s->table = verify_guard_alloc(batch * (size_t)p->max_pages_per_seq * sizeof *s->table, VERIFY_GUARD_BEHIND);
  s->lengths = verify_guard_alloc(batch * sizeof *s->lengths, VERIFY_GUARD_BEHIND);
  s->out = verify_guard_alloc(count * out_bytes_of(s), VERIFY_GUARD_BEHIND);
  s->lse = verify_guard_alloc(count * rows_of(s) * sizeof *s->lse, VERIFY_GUARD_BEHIND);
  verify_step_set(&s->merged, VERIFY_LSE, NULL, 0);
  if (verify_step_renew(&s->merged, VERIFY_OUT, s->merged.tensors[VERIFY_OUT].bytes, true) != 0 ||
      (has_lse && verify_step_renew(&s->merged, VERIFY_LSE, lse_bytes, true) != 0))
    return -1;
  return s->table != NULL && s->lengths != NULL && s->out != NULL && s->lse != NULL ? 0 : -1;
}

static void free_parts(parts *s) {
  verify_guard_free(s->table);
  verify_guard_free(s->lengths);
  verify_guard_free(s->out);
  verify_guard_free(s->lse);
  verify_guard_free(s->merged.tensors[VERIFY_OUT].data);
  verify_guard_free(s->merged.tensors[VERIFY_LSE].data);
}

/* Table and lengths of part k. `all` is the resolved case. */
static void select_pages(parts *s, const fmla_decode_params *all, int32_t k) {
  for (int32_t i = 0; i < all->batch_size; i++) {
    int64_t length = all->cache_seqlens[i], pages = (length + all->page_size - 1) / all->page_size;
    int64_t begin = k * pages / s->count, end = (k + 1) * pages / s->count;
    int64_t tokens_behind = length - end * all->page_size;
    s->lengths[i] = (int32_t)((end - begin) * all->page_size + (tokens_behind < 0 ? tokens_behind : 0));
    for (int64_t page = begin; page < end; page++)
      s->table[i * (int64_t)all->max_pages_per_seq + page - begin] =
          all->block_table[i * all->block_table_stride + page];
  }
}

static fmla_status decode_part(parts *s, const verify_run *run, const fmla_decode_params *all, int32_t k) {
  size_t batch = (size_t)all->batch_size;
  select_pages(s, all, k);
  verify_step_set(&s->part, VERIFY_BLOCK_TABLE, s->table,
                  batch * (size_t)all->max_pages_per_seq * sizeof *s->table);
  verify_step_set(&s->part, VERIFY_CACHE_SEQLENS, s->lengths, batch * sizeof *s->lengths);
  verify_step_set(&s->part, VERIFY_OUT, s->out + (size_t)k * out_bytes_of(s), out_bytes_of(s));
  verify_step_set(&s->part, VERIFY_LSE, s->lse + (size_t)k * rows_of(s), rows_of(s) * sizeof *s->lse);
  return verify_device_decode(run->target->context, &s->part, VERIFY_WORKSPACE_NAN);
}

static fmla_merge_params merge_of(const parts *s, const fmla_decode_params *all) {
  fmla_merge_params m = FMLA_MERGE_PARAMS_INIT;
  bool varlen = all->cu_seqlens_q != NULL;
  m.num_parts = s->count;
  m.batch_size = varlen ? 1 : all->batch_size;
  m.seqlen_q = varlen ? (int32_t)all->total_q : all->max_seqlen_q;
  m.num_q_heads = all->num_q_heads;
  m.head_dim_v = all->head_dim_v;
  m.flags = all->flags & FMLA_EMPTY_LSE_POS_INF;
  m.part_dtype = s->dtype;
  m.out_dtype = all->out_dtype;
  m.out_parts = s->out;
  m.lse_parts = s->lse;
  m.sink = all->sink;
  m.out = s->merged.tensors[VERIFY_OUT].data;
  m.lse = s->merged.tensors[VERIFY_LSE].data;
  if (!varlen) { /* else there is no stride of the batch, and none is needed */
    m.out_stride_batch = all->out_stride_batch;
    m.lse_stride_batch = all->lse_stride_batch;
  }
  m.out_stride_token = all->out_stride_token;
  m.out_stride_head = all->out_stride_head;
  m.lse_stride_token = all->lse_stride_token;
  m.lse_stride_head = all->lse_stride_head;
  return m;
}

static verify_outcome check_merge(const parts *s, const verify_run *run, const fmla_decode_params *all) {
  fmla_merge_params merge = merge_of(s, all);
  fmla_status status = verify_device_merge(run->target->context, &merge);
  if (status != FMLA_OK)
    return verify_call_failed(run, "fmla_merge", status);
  verify_report report;
  if (verify_merge(&merge, &report) != 0)
    return VERIFY_NO_MEMORY;
  if (report.failed_rows > 0)
    return verify_fail(run, "fmla_merge of %d parts: %s", (int)s->count, report.message);
  if (s->dtype != FMLA_DTYPE_FP32) /* rounded parts do not give the case's result within its bounds */
    return VERIFY_PASSED;
  return verify_check_values(run, &s->merged.params, "decoded in parts and merged");
}

verify_outcome verify_merged_parts(const verify_run *run) {
  fmla_decode_params all = run->step->params;
  if ((all.flags & FMLA_CAUSAL) != 0 && all.max_seqlen_q > 1) /* no part knows where another's mask ends */
    return VERIFY_PASSED;
  verify_resolve_decode(&all);
  parts s = {0};
  set_up_calls(&s, run);
  verify_outcome outcome = alloc_parts(&s) == 0 ? VERIFY_PASSED : VERIFY_NO_MEMORY;
  for (int32_t k = 0; outcome == VERIFY_PASSED && k < s.count; k++) {
    fmla_status status = decode_part(&s, run, &all, k);
    if (status != FMLA_OK)
      outcome = verify_call_failed(run, "decoding a part", status);
  }
  if (outcome == VERIFY_PASSED)
    outcome = check_merge(&s, run, &all);
  free_parts(&s);
  return outcome;
}
