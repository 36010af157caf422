/*
 * test_guard.c: each buffer of a call between guard pages, and workspaces of every alignment.
 *
 * SPDX-License-Identifier: MIT
 */
#include "guard.h"
#include "sample.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

enum { MARGIN = 64 };

static void *guarded_copy(const void *from, size_t bytes, verify_guard_side side) {
  void *copy = verify_guard_alloc(bytes, side);
  assert_non_null(copy);
  if (from != NULL)
    memcpy(copy, from, bytes);
  return copy;
}

/* The buffers of a call, the workspace last. */
enum { Q, Q_ROPE, KV_CACHE, BLOCK_TABLE, CACHE_SEQLENS, CU_SEQLENS_Q, SINK, OUT, LSE, WORKSPACE, NUM_BUFFERS };

static void decode_between_guards(const sample *plain, verify_guard_side side) {
  fmla_decode_params p = plain->params;
  size_t workspace_bytes = 0;
  assert_int_equal(fmla_decode_workspace(sample_context, &p, &workspace_bytes), FMLA_OK);
  const size_t rows = plain->lse_bytes / sizeof(float), b = (size_t)p.batch_size, half = sizeof(uint16_t);
  const size_t rope = p.q_rope != NULL ? (size_t)p.head_dim_rope : 0;
  const size_t tokens = (size_t)p.num_pages * (size_t)p.page_size * (size_t)p.num_kv_heads;
  const size_t bytes[NUM_BUFFERS] = {[Q] = rows * ((size_t)p.head_dim_k - rope) * half,
                                     [Q_ROPE] = rows * rope * half,
                                     [KV_CACHE] = tokens * (size_t)p.head_dim_k * half,
                                     [BLOCK_TABLE] = b * (size_t)p.max_pages_per_seq * sizeof(int32_t),
                                     [CACHE_SEQLENS] = b * sizeof(int32_t),
                                     [CU_SEQLENS_Q] = (b + 1) * sizeof(int32_t),
                                     [SINK] = (size_t)p.num_q_heads * sizeof(float),
                                     [OUT] = plain->out_bytes,
                                     [LSE] = plain->lse_bytes,
                                     [WORKSPACE] = workspace_bytes};
  const void *from[NUM_BUFFERS] = {p.q,    p.q_rope, p.kv_cache, p.block_table, p.cache_seqlens, p.cu_seqlens_q,
                                   p.sink, NULL,     NULL,       NULL};
  void *to[NUM_BUFFERS];
  for (int i = 0; i < NUM_BUFFERS; i++)
    to[i] = i < OUT && from[i] == NULL ? NULL : guarded_copy(from[i], bytes[i], side);
  p.q = to[Q];
  p.q_rope = to[Q_ROPE];
  p.kv_cache = to[KV_CACHE];
  p.block_table = to[BLOCK_TABLE];
  p.cache_seqlens = to[CACHE_SEQLENS];
  p.cu_seqlens_q = to[CU_SEQLENS_Q];
  p.sink = to[SINK];
  p.out = to[OUT];
  p.lse = to[LSE];
  assert_int_equal(fmla_decode(sample_context, &p, to[WORKSPACE], workspace_bytes, NULL), FMLA_OK);
  assert_memory_equal(p.out, plain->out, plain->out_bytes);
  assert_memory_equal(p.lse, plain->lse, plain->lse_bytes);
  for (int i = 0; i < NUM_BUFFERS; i++)
    verify_guard_free(to[i]);
}

static void test_guard_pages(void **state) {
  (void)state;
  sample_shape shapes[] = {sample_tiny, sample_long, sample_long};
  shapes[1].ragged = false; /* the last tile is not full, and no rows follow it */
  for (int i = 0; i < 3; i++) {
    sample plain = sample_new(&shapes[i]);
    assert_int_equal(sample_decode(sample_context, &plain), FMLA_OK);
    decode_between_guards(&plain, VERIFY_GUARD_BEFORE);
    decode_between_guards(&plain, VERIFY_GUARD_BEHIND);
    sample_free(&plain);
  }
}

/* A workspace of exactly the bytes asked for, at each of 64 alignments, right before a guard page. */
static void test_workspace_alignments(void **state) {
  (void)state;
  sample_shape shape = sample_long;
  shape.num_q_heads = 3;
  shape.longest = 700;
  sample plain = sample_new(&shape), s = sample_new(&shape);
  assert_int_equal(sample_decode(sample_context, &plain), FMLA_OK);
  size_t bytes = 0;
  assert_int_equal(fmla_decode_workspace(sample_context, &s.params, &bytes), FMLA_OK);
  int met[MARGIN] = {0};
  for (size_t slack = 0; slack < MARGIN; slack++) {
    unsigned char *workspace = verify_guard_alloc(bytes + slack, VERIFY_GUARD_BEHIND);
    assert_non_null(workspace);
    met[(uintptr_t)workspace % MARGIN]++;
    sample_spoil_outputs(&s);
    assert_int_equal(fmla_decode(sample_context, &s.params, workspace, bytes, NULL), FMLA_OK);
    assert_true(sample_same_outputs(&s, &plain));
    for (size_t i = bytes; i < bytes + slack; i++)
      assert_int_equal(workspace[i], 0xff); /* what the guard allocator left there */
    verify_guard_free(workspace);
  }
  for (int i = 0; i < MARGIN; i++)
    assert_int_equal(met[i], 1);
  sample_free(&plain);
  sample_free(&s);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_guard_pages),
      cmocka_unit_test(test_workspace_alignments),
  };
  return cmocka_run_group_tests_name("guard", tests, open_sample_context, close_sample_context);
}
