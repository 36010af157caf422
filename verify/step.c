/*
 * step.c: from a description to a call: lengths, page table, strides, memory.
 *
 * SPDX-License-Identifier: MIT
 */
#include "step.h"

#include "fill.h"
#include "guard.h"
#include "number.h"
#include "random.h"

#include <math.h>
#include <stdlib.h>

static int64_t num_pages_of(int64_t tokens, int32_t page_size) {
  return (tokens + page_size - 1) / page_size;
}

static void point(fmla_decode_params *p, verify_tensor_id id, void *data) {
  switch (id) {
  case VERIFY_Q:
    p->q = data;
    break;
  case VERIFY_Q_ROPE:
    p->q_rope = data;
    break;
  case VERIFY_KV_CACHE:
    p->kv_cache = data;
    break;
  case VERIFY_BLOCK_TABLE:
    p->block_table = data;
    break;
  case VERIFY_CACHE_SEQLENS:
    p->cache_seqlens = data;
    break;
  case VERIFY_CU_SEQLENS_Q:
    p->cu_seqlens_q = data;
    break;
  case VERIFY_SINK:
    p->sink = data;
    break;
  case VERIFY_OUT:
    p->out = data;
    break;
  case VERIFY_LSE:
    p->lse = data;
    break;
  case VERIFY_NUM_TENSORS:
    break;
  }
}

void verify_step_set(verify_step *step, verify_tensor_id id, void *data, size_t bytes) {
  step->tensors[id] = (verify_tensor){data, bytes};
  point(&step->params, id, data);
}

int verify_step_renew(verify_step *step, verify_tensor_id id, size_t bytes, bool behind) {
  void *data = verify_guard_alloc(bytes, behind ? VERIFY_GUARD_BEHIND : VERIFY_GUARD_BEFORE);
  verify_step_set(step, id, data, bytes);
  return data != NULL ? 0 : -1;
}

static int add_tensor(verify_step *step, verify_tensor_id id, int64_t elements, size_t element_bytes,
                      verify_random *random) {
  return verify_step_renew(step, id, (size_t)elements * element_bytes, !verify_random_once_in(random, 4));
}

/* ---- Strides ----------------------------------------------------------------------------------- */

/* A tensor [.., .., .., row], slowest dimension first, rows contiguous. */
typedef struct layout {
  int64_t extents[3];
  int64_t row;
  int64_t *strides[3];
  int64_t multiple; /* that strides must be */
} layout;

/* Chooses the strides; returns the elements from the first to the last. */
static int64_t lay_out(const layout *l, verify_strides choice, verify_random *random) {
  int order[3] = {2, 1, 0}; /* fastest first */
  if (choice == VERIFY_STRIDES_GAPS)
    for (int i = 2; i > 0; i--) {
      int other = verify_random_int(random, 0, i), swap = order[i];
      order[i] = order[other];
      order[other] = swap;
    }
  int64_t step = l->row, last = 0;
  for (int i = 0; i < 3; i++) {
    if (choice == VERIFY_STRIDES_GAPS)
      step += verify_random_int(random, 0, 5);
    if (choice == VERIFY_STRIDES_MIXED && i == 0)
      step += 8;
    if (choice == VERIFY_STRIDES_FAR && i == 2)
      step = (INT64_C(1) << 30) + 8; /* the fifth lies beyond 2^32 elements */
    step = (step + l->multiple - 1) / l->multiple * l->multiple;
    const bool packed = choice == VERIFY_STRIDES_PACKED || (choice == VERIFY_STRIDES_MIXED && i > 0);
    *l->strides[order[i]] = packed ? FMLA_PACKED : step;
    last += (l->extents[order[i]] - 1) * step;
    step *= l->extents[order[i]];
  }
  return l->extents[0] == 0 || l->extents[1] == 0 || l->extents[2] == 0 ? 0 : last + l->row;
}

/* With cu_seqlens_q there is no batch dimension: its stride is not read. */
static void spoil_batch_strides(fmla_decode_params *p) {
  p->q_stride_batch = p->q_rope_stride_batch = p->out_stride_batch = p->lse_stride_batch = INT64_MIN;
}

static int add_strided_tensors(const verify_case *c, verify_step *step, verify_random *random) {
  fmla_decode_params *p = &step->params;
  bool repeat = c->strides == VERIFY_STRIDES_REPEAT;
  verify_strides in = repeat ? VERIFY_STRIDES_SPELT : c->strides;
  verify_strides to = in == VERIFY_STRIDES_FAR ? VERIFY_STRIDES_SPELT : in; /* all of an output is looked at */
  int64_t batch = c->varlen ? 1 : c->batch_size, tokens = c->varlen ? p->total_q : c->max_seqlen_q;
  int64_t heads = c->num_q_heads, q_batch = repeat && batch > 0 ? 1 : batch;
  int32_t latent = c->head_dim_k - c->head_dim_rope;
  size_t out_bytes = verify_dtype_bytes(c->out_dtype);

  int64_t multiple = c->stride_multiple;

  const layout q = {
      {q_batch, tokens, heads}, latent, {&p->q_stride_batch, &p->q_stride_token, &p->q_stride_head}, multiple};
  const layout q_rope = {{q_batch, tokens, heads},
                         c->head_dim_rope,
                         {&p->q_rope_stride_batch, &p->q_rope_stride_token, &p->q_rope_stride_head},
                         multiple};
  const layout kv = {{p->num_pages, c->page_size, repeat ? 1 : c->num_kv_heads},
                     c->head_dim_k,
                     {&p->kv_stride_page, &p->kv_stride_token, &p->kv_stride_head},
                     multiple};
  const layout out = {{batch, tokens, heads},
                      c->head_dim_v,
                      {&p->out_stride_batch, &p->out_stride_token, &p->out_stride_head},
                      multiple};
  const layout lse = {
      {batch, heads, tokens}, 1, {&p->lse_stride_batch, &p->lse_stride_head, &p->lse_stride_token}, 1};

  if (add_tensor(step, VERIFY_Q, lay_out(&q, in, random), 2, random) != 0 ||
      (c->head_dim_rope > 0 && add_tensor(step, VERIFY_Q_ROPE, lay_out(&q_rope, in, random), 2, random) != 0) ||
      add_tensor(step, VERIFY_KV_CACHE, lay_out(&kv, in, random), 2, random) != 0 ||
      add_tensor(step, VERIFY_OUT, lay_out(&out, to, random), out_bytes, random) != 0 ||
      (!c->no_lse && add_tensor(step, VERIFY_LSE, lay_out(&lse, to, random), sizeof(float), random) != 0))
    return -1;
  if (repeat)
    p->q_stride_batch = p->q_rope_stride_batch = p->kv_stride_head = 0;
  if (c->varlen && c->strides == VERIFY_STRIDES_GAPS)
    spoil_batch_strides(p);
  return 0;
}

/* ---- Lengths and pages ------------------------------------------------------------------------- */

static int32_t draw_length(const verify_case *c, int32_t sequence, verify_random *random) {
  const int32_t page = c->page_size;
  const int32_t edges[] = {page, page - 1, page + 1, 1, 0, 2 * page, 63, 64, 65, 255, 256, 257, 511, 512, 513};
  int32_t length = c->longest;
  if (c->lengths == VERIFY_LENGTHS_RANDOM)
    length = verify_random_int(random, 0, c->longest);
  if (c->lengths == VERIFY_LENGTHS_EDGES && sequence > 0)
    length = edges[(size_t)(sequence - 1) % (sizeof edges / sizeof edges[0])];
  if (c->lengths == VERIFY_LENGTHS_ONE_HUGE && sequence > 0)
    length = verify_random_int(random, 0, 3);
  return length < c->longest ? length : c->longest;
}

static int add_lengths(const verify_case *c, verify_step *step, verify_random *random) {
  fmla_decode_params *p = &step->params;
  if (add_tensor(step, VERIFY_CACHE_SEQLENS, c->batch_size, sizeof(int32_t), random) != 0)
    return -1;
  int32_t *lengths = step->tensors[VERIFY_CACHE_SEQLENS].data;
  for (int32_t i = 0; i < c->batch_size; i++)
    lengths[i] = draw_length(c, i, random);
  p->max_seqlen_k = verify_random_once_in(random, 2) ? c->longest : 0;
  p->max_pages_per_seq = (int32_t)num_pages_of(c->longest, c->page_size) + verify_random_int(random, 0, 2);
  if (!c->varlen)
    return 0;
  if (add_tensor(step, VERIFY_CU_SEQLENS_Q, c->batch_size + 1, sizeof(int32_t), random) != 0)
    return -1;
  int32_t *starts = step->tensors[VERIFY_CU_SEQLENS_Q].data;
  starts[0] = 0;
  for (int32_t i = 0; i < c->batch_size; i++)
    starts[i + 1] = starts[i] + verify_random_int(random, 0, c->max_seqlen_q);
  p->total_q = starts[c->batch_size] + verify_random_int(random, 0, 3);
  return 0;
}

/* The numbers 0 .. count - 1 in random order. */
static int32_t *permutation(int64_t count, verify_random *random) {
  int32_t *numbers = calloc((size_t)count + 1, sizeof *numbers);
  for (int32_t i = 0; numbers != NULL && i < count; i++) {
    int32_t other = verify_random_int(random, 0, i);
    numbers[i] = numbers[other];
    numbers[other] = i;
  }
  return numbers;
}

static int add_block_table(const verify_case *c, verify_step *step, verify_random *random) {
  fmla_decode_params *p = &step->params;
  const int32_t *lengths = p->cache_seqlens;
  int64_t columns = p->max_pages_per_seq, rows = c->batch_size, stride = columns, needed = 0;
  if (c->strides == VERIFY_STRIDES_GAPS)
    stride += 3;
  for (int32_t i = 0; i < c->batch_size; i++)
    needed += num_pages_of(lengths[i], c->page_size);
  if (c->strides == VERIFY_STRIDES_REPEAT && rows > 0) { /* all sequences read the first row */
    rows = 1;
    needed = num_pages_of(c->longest, c->page_size);
  }
  p->num_pages = needed + verify_random_int(random, 0, 3);
  p->block_table_stride = c->strides == VERIFY_STRIDES_PACKED   ? FMLA_PACKED
                          : c->strides == VERIFY_STRIDES_REPEAT ? 0
                                                                : stride;
  int64_t elements = rows == 0 || columns == 0 ? 0 : (rows - 1) * stride + columns;
  int32_t *pages = permutation(p->num_pages, random);
  if (pages == NULL || add_tensor(step, VERIFY_BLOCK_TABLE, elements, sizeof(int32_t), random) != 0) {
    free(pages);
    return -1;
  }
  int32_t *table = step->tensors[VERIFY_BLOCK_TABLE].data;
  int64_t next = 0;
  for (int64_t i = 0; i < rows; i++) {
    int64_t used = rows == 1 ? needed : num_pages_of(lengths[i], c->page_size);
    for (int64_t k = 0; k < columns; k++) {
      bool shared = c->shared_pages && i > 0 && k < num_pages_of(lengths[0], c->page_size) &&
                    verify_random_once_in(random, 2);
      int32_t unused = verify_random_once_in(random, 2) ? -1 : 2147480000;
      table[i * stride + k] = k >= used ? unused : shared ? table[k] : pages[next++];
    }
  }
  free(pages);
  return 0;
}

/* ---- The step ---------------------------------------------------------------------------------- */

static fmla_decode_params extents_of(const verify_case *c, verify_random *random) {
  fmla_decode_params p = FMLA_DECODE_PARAMS_INIT;
  p.batch_size = c->batch_size;
  p.num_q_heads = c->num_q_heads;
  p.num_kv_heads = c->num_kv_heads;
  p.head_dim_k = c->head_dim_k;
  p.head_dim_v = c->head_dim_v;
  p.head_dim_rope = c->head_dim_rope > 0 ? c->head_dim_rope : -7; /* not read */
  p.max_seqlen_q = c->max_seqlen_q;
  p.page_size = c->page_size;
  p.total_q = verify_random_once_in(random, 2) ? (int64_t)c->batch_size * c->max_seqlen_q : 0;
  p.softmax_scale = c->softmax_scale;
  p.flags = c->flags;
  p.q_dtype = c->dtype;
  p.kv_format = c->dtype == FMLA_DTYPE_FP16 ? FMLA_KV_FP16 : FMLA_KV_BF16;
  p.out_dtype = c->out_dtype;
  return p;
}

int verify_step_build(const verify_case *c, verify_step *step) {
  verify_random random = {c->seed};
  *step = (verify_step){.params = extents_of(c, &random)};
  if (add_lengths(c, step, &random) != 0 || add_block_table(c, step, &random) != 0 ||
      add_strided_tensors(c, step, &random) != 0 ||
      (c->sink != VERIFY_SINK_NONE &&
       add_tensor(step, VERIFY_SINK, c->num_q_heads, sizeof(float), &random) != 0)) {
    verify_step_free(step);
    return -1;
  }
  verify_fill(c, step, &random);
  for (int i = 0; i < VERIFY_OUT; i++)
    if (step->tensors[i].data != NULL)
      verify_guard_read_only(step->tensors[i].data);
  return 0;
}

void verify_step_free(verify_step *step) {
  for (int i = 0; i < VERIFY_NUM_TENSORS; i++)
    verify_guard_free(step->tensors[i].data);
  *step = (verify_step){0};
}

/* ---- Variants of a step ------------------------------------------------------------------------ */

int verify_step_new_outputs(const verify_step *from, verify_step *to) {
  *to = *from;
  verify_step_set(to, VERIFY_LSE, NULL, 0);
  if (verify_step_renew(to, VERIFY_OUT, from->tensors[VERIFY_OUT].bytes, true) != 0)
    return -1;
  return from->tensors[VERIFY_LSE].data == NULL
             ? 0
             : verify_step_renew(to, VERIFY_LSE, from->tensors[VERIFY_LSE].bytes, true);
}

void verify_step_drop_outputs(verify_step *step) {
  verify_guard_free(step->tensors[VERIFY_OUT].data);
  verify_guard_free(step->tensors[VERIFY_LSE].data);
}

static bool same_bytes(const verify_tensor *a, const verify_tensor *b) {
  return a->bytes == b->bytes && (a->bytes == 0 || memcmp(a->data, b->data, a->bytes) == 0);
}

bool verify_step_same_outputs(const verify_step *a, const verify_step *b) {
  return same_bytes(&a->tensors[VERIFY_OUT], &b->tensors[VERIFY_OUT]) &&
         same_bytes(&a->tensors[VERIFY_LSE], &b->tensors[VERIFY_LSE]);
}

int verify_step_own(verify_step *step, verify_tensor_id id) {
  verify_tensor shared = step->tensors[id];
  if (shared.data == NULL)
    return 0;
  if (verify_step_renew(step, id, shared.bytes, true) != 0)
    return -1;
  memcpy(step->tensors[id].data, shared.data, shared.bytes);
  return 0;
}
