/*
 * test_accept.c: calls at the edge of the rules that must be served: nothing to do, pointers to nothing,
 * repeated inputs, other layouts, fields that are not read.
 *
 * SPDX-License-Identifier: MIT
 */
#include "sample.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

static void assert_served(fmla_status status) {
  if (status != FMLA_OK)
    fail_msg("%s: %s", fmla_status_name(status), fmla_last_error());
}

static void assert_empty_rows(const sample *s, int64_t begin, int64_t end, float empty_lse) {
  const fmla_decode_params *p = &s->params;
  const float *out = s->out;
  for (int64_t i = begin * p->num_q_heads * p->head_dim_v; i < end * p->num_q_heads * p->head_dim_v; i++)
    assert_true(out[i] == 0 && !signbit(out[i]));
  const int64_t tokens = p->cu_seqlens_q != NULL ? p->total_q : p->max_seqlen_q;
  for (int64_t row = begin; row < end; row++)
    for (int64_t head = 0; head < p->num_q_heads; head++)
      assert_true(s->lse[row / tokens * tokens * p->num_q_heads + head * tokens + row % tokens] == empty_lse);
}

static void test_nothing_to_do(void **state) {
  (void)state;
  fmla_decode_params p = FMLA_DECODE_PARAMS_INIT;
  p.num_q_heads = 1;
  p.softmax_scale = 1;
  static char workspace[1 << 20];
  assert_served(
      fmla_decode(sample_context, &p, workspace, sizeof workspace, NULL)); /* batch_size 0, all NULL */

  p.max_pages_per_seq = 9;
  p.num_pages = INT32_MAX;
  assert_served(fmla_decode(sample_context, &p, workspace, sizeof workspace, NULL));

  /* Sequences, but no query tokens. */
  const int32_t lengths[2] = {0, 0}, starts[3] = {0, 0, 0};
  p.max_pages_per_seq = 0;
  p.num_pages = 0;
  p.batch_size = 2;
  p.cache_seqlens = lengths;
  p.max_seqlen_q = 0;
  assert_served(fmla_decode(sample_context, &p, workspace, sizeof workspace, NULL));
  p.max_seqlen_q = 4;
  p.cu_seqlens_q = starts;
  assert_served(fmla_decode(sample_context, &p, workspace, sizeof workspace, NULL)); /* total_q 0 */
  p.batch_size = 0;
  p.cache_seqlens = NULL;
  assert_served(fmla_decode(sample_context, &p, workspace, sizeof workspace, NULL));
}

/* No pages at all: the cache and the table have no elements. */
static void test_no_pages(void **state) {
  (void)state;
  sample s = sample_new(&sample_tiny);
  memset(s.cache_seqlens, 0, sizeof *s.cache_seqlens * (size_t)s.params.batch_size);
  s.params.num_pages = 0;
  s.params.max_pages_per_seq = 0;
  s.params.kv_cache = NULL;
  s.params.block_table = NULL;
  for (int strided = 0; strided < 2; strided++) {
    sample_spoil_outputs(&s);
    s.params.block_table_stride = strided ? 5 : FMLA_PACKED;
    assert_served(sample_decode(sample_context, &s));
    assert_empty_rows(&s, 0, (int64_t)s.params.batch_size * s.params.max_seqlen_q, -INFINITY);
  }
  sample_free(&s);
}

/* A sequence of length 0 has a table of -1, and no other row changes. */
static void test_empty_sequence(void **state) {
  (void)state;
  sample s = sample_new(&sample_tiny), whole = sample_new(&sample_tiny);
  assert_served(sample_decode(sample_context, &whole));
  s.cache_seqlens[1] = 0;
  for (int32_t i = 0; i < s.params.max_pages_per_seq; i++)
    s.block_table[s.params.max_pages_per_seq + i] = -1;
  s.params.flags |= FMLA_EMPTY_LSE_POS_INF;
  assert_served(sample_decode(sample_context, &s));
  assert_empty_rows(&s, 2, 4, INFINITY);
  const size_t sequence = s.out_bytes / 3;
  assert_memory_equal(s.out, whole.out, sequence);
  assert_memory_equal((char *)s.out + 2 * sequence, (char *)whole.out + 2 * sequence, sequence);
  sample_free(&s);
  sample_free(&whole);
}

/* With cu_seqlens_q: rows past the last sequence, and a sequence without query tokens. */
static void test_ragged(void **state) {
  (void)state;
  sample_shape shape = sample_tiny;
  shape.ragged = true; /* 2, 1 and 0 tokens, one row over */
  sample s = sample_new(&shape);
  s.params.q_stride_batch = s.params.q_rope_stride_batch = INT64_MIN; /* not read */
  s.params.out_stride_batch = s.params.lse_stride_batch = INT64_MIN;
  assert_served(sample_decode(sample_context, &s));
  assert_empty_rows(&s, 3, 4, -INFINITY);

  sample uniform = sample_new(&sample_tiny);
  assert_served(sample_decode(sample_context, &uniform));
  assert_memory_equal(s.out, uniform.out, s.out_bytes * 3 / 4); /* the rows that both have, in the same place */
  sample_free(&s);
  sample_free(&uniform);
}

/* Table entries beyond the lengths are not looked at. */
static void test_unused_table_entries(void **state) {
  (void)state;
  sample s = sample_new(&sample_tiny), plain = sample_new(&sample_tiny);
  assert_served(sample_decode(sample_context, &plain));
  s.block_table[5] = -1; /* lengths 11, 8, 4 use 3, 2 and 1 of 3 columns */
  s.block_table[7] = INT32_MAX;
  s.block_table[8] = INT32_MIN;
  assert_served(sample_decode(sample_context, &s));
  assert_true(sample_same_outputs(&s, &plain));
  sample_free(&s);
  sample_free(&plain);
}

/* Fields that some calls do not read may hold anything, and hints change nothing. */
static void test_fields_without_effect(void **state) {
  (void)state;
  sample_shape shape = sample_tiny;
  shape.head_dim_rope = 0;
  sample s = sample_new(&shape), plain = sample_new(&shape);
  assert_served(sample_decode(sample_context, &plain));
  s.params.head_dim_rope = -7;
  s.params.q_rope_stride_batch = s.params.q_rope_stride_token = s.params.q_rope_stride_head = INT64_MIN;
  s.params.total_q = (int64_t)s.params.batch_size * s.params.max_seqlen_q;
  s.params.max_seqlen_k = 11;
  s.params.max_sms = 3;
  s.params.flags |= FMLA_CHECKED;
  assert_served(sample_decode(sample_context, &s));
  assert_true(sample_same_outputs(&s, &plain));
  s.params.max_seqlen_k = INT32_MAX;
  s.params.lse = NULL;
  assert_served(sample_decode(sample_context, &s));
  assert_memory_equal(s.out, plain.out, s.out_bytes);
  sample_free(&s);
  sample_free(&plain);
}

/* q in two tensors is the same as q in one. */
static void test_split_q(void **state) {
  (void)state;
  sample split = sample_new(&sample_tiny);
  sample_shape shape = sample_tiny;
  shape.head_dim_rope = 0;
  sample whole = sample_new(&shape);
  const int32_t rope = sample_tiny.head_dim_rope, rest = sample_tiny.head_dim_k - rope;
  const size_t rows = split.lse_bytes / sizeof(float);
  for (size_t i = 0; i < rows; i++) {
    uint16_t *row = whole.q + i * (size_t)(rest + rope);
    memcpy(row, split.q + i * (size_t)rest, sizeof *row * (size_t)rest);
    memcpy(row + rest, split.q_rope + i * (size_t)rope, sizeof *row * (size_t)rope);
  }
  assert_served(sample_decode(sample_context, &split));
  assert_served(sample_decode(sample_context, &whole));
  assert_true(sample_same_outputs(&split, &whole));
  sample_free(&split);
  sample_free(&whole);
}

/* Strides of 0 repeat an input: one query token, one page, one row of the table for all. */
static void test_repeated_inputs(void **state) {
  (void)state;
  sample s = sample_new(&sample_tiny);
  s.params.q_stride_batch = s.params.q_stride_token = s.params.q_stride_head = 0;
  s.params.q_rope_stride_batch = s.params.q_rope_stride_token = s.params.q_rope_stride_head = 0;
  s.params.kv_stride_page = s.params.kv_stride_head = 0;
  s.params.block_table_stride = 0;
  s.params.sink = NULL;
  for (int i = 0; i < 3; i++)
    s.cache_seqlens[i] = 11;
  assert_served(sample_decode(sample_context, &s));
  const size_t row = sizeof(float) * (size_t)s.params.head_dim_v;
  for (size_t i = 1; i < s.lse_bytes / sizeof(float); i++) {
    assert_memory_equal((char *)s.out + i * row, s.out, row);
    assert_true(s.lse[i] == s.lse[0]);
  }
  sample_free(&s);
}

/* Outputs with dimensions in another order and gaps: the same rows, and nothing written between them. */
static void test_permuted_outputs(void **state) {
  (void)state;
  enum { BATCH = 3, TOKENS = 2, HEADS = 4, DIM = 16 };
  sample packed = sample_new(&sample_tiny), moved = sample_new(&sample_tiny);
  assert_served(sample_decode(sample_context, &packed));
  static float out[TOKENS][HEADS][BATCH][DIM + 3], lse[BATCH + 1][TOKENS][HEADS + 2];
  memset(out, 0xa5, sizeof out);
  memset(lse, 0xa5, sizeof lse);
  float untouched[3];
  memset(untouched, 0xa5, sizeof untouched);
  moved.params.out = out;
  moved.params.out_stride_token = sizeof out[0] / sizeof(float);
  moved.params.out_stride_head = sizeof out[0][0] / sizeof(float);
  moved.params.out_stride_batch = DIM + 3;
  moved.params.lse = &lse[0][0][0];
  moved.params.lse_stride_batch = sizeof lse[0] / sizeof(float);
  moved.params.lse_stride_token = HEADS + 2;
  moved.params.lse_stride_head = 1;
  assert_served(sample_decode(sample_context, &moved));
  float(*expected)[TOKENS][HEADS][DIM] = packed.out;
  float(*expected_lse)[HEADS][TOKENS] = (void *)packed.lse;
  for (int b = 0; b < BATCH; b++)
    for (int t = 0; t < TOKENS; t++) {
      for (int h = 0; h < HEADS; h++) {
        assert_memory_equal(out[t][h][b], expected[b][t][h], sizeof expected[b][t][h]);
        assert_memory_equal(&out[t][h][b][DIM], untouched, 3 * sizeof(float));
        assert_true(lse[b][t][h] == expected_lse[b][h][t]);
      }
      assert_memory_equal(&lse[b][t][HEADS], untouched, 2 * sizeof(float));
    }
  sample_free(&packed);
  sample_free(&moved);
}

/* A dimension of extent 1 never steps: any stride will do, in outputs too. */
static void test_strides_of_single_extents(void **state) {
  (void)state;
  sample_shape shape = sample_tiny;
  shape.batch_size = shape.max_seqlen_q = 1;
  sample s = sample_new(&shape), plain = sample_new(&shape);
  assert_served(sample_decode(sample_context, &plain));
  s.params.out_stride_batch = 0;
  s.params.out_stride_token = 3;
  s.params.lse_stride_batch = 0;
  s.params.lse_stride_token = 77;
  s.params.lse_stride_head = 1;
  assert_served(sample_decode(sample_context, &s));
  assert_true(sample_same_outputs(&s, &plain));
  sample_free(&s);
  sample_free(&plain);
}

/* Where nothing is written, nothing overlaps. */
static void test_output_strides_without_elements(void **state) {
  (void)state;
  sample s = sample_new(&sample_tiny);
  s.params.max_seqlen_q = 0;
  s.params.out_stride_batch = s.params.out_stride_token = s.params.out_stride_head = 0;
  s.params.lse_stride_batch = s.params.lse_stride_token = s.params.lse_stride_head = 0;
  assert_served(sample_decode(sample_context, &s));
  assert_true(sample_outputs_spoilt(&s));
  sample_free(&s);
}

/* The largest extents that a machine can hold in strides of 0 are only read for sizes. */
static void test_workspace_of_large_extents(void **state) {
  (void)state;
  fmla_decode_params p = FMLA_DECODE_PARAMS_INIT;
  p.batch_size = 1 << 20;
  p.num_q_heads = 128;
  p.max_pages_per_seq = 1 << 20;
  p.num_pages = INT32_MAX;
  p.softmax_scale = 1;
  size_t bytes = 0;
  assert_served(fmla_decode_workspace(sample_context, &p, &bytes));
  assert_true(bytes > 0 && bytes < (size_t)1 << 30); /* the normal mode's partial results are bounded */
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_nothing_to_do),
      cmocka_unit_test(test_no_pages),
      cmocka_unit_test(test_empty_sequence),
      cmocka_unit_test(test_ragged),
      cmocka_unit_test(test_unused_table_entries),
      cmocka_unit_test(test_fields_without_effect),
      cmocka_unit_test(test_split_q),
      cmocka_unit_test(test_repeated_inputs),
      cmocka_unit_test(test_permuted_outputs),
      cmocka_unit_test(test_strides_of_single_extents),
      cmocka_unit_test(test_output_strides_without_elements),
      cmocka_unit_test(test_workspace_of_large_extents),
  };
  return cmocka_run_group_tests_name("accept", tests, open_sample_context, close_sample_context);
}
