/*
 * test_workspace.c: how large workspaces are: they never shrink as a step grows, so that the largest step's
 * serves all, and stay within what was promised.
 *
 * SPDX-License-Identifier: MIT
 */
#include "sample.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

enum { NUM_SHAPES = 3000, MEGABYTE = 1 << 20 };

static size_t workspace_of(const fmla_decode_params *p) {
  size_t bytes = 0;
  if (fmla_decode_workspace(sample_context, p, &bytes) != FMLA_OK)
    fail_msg("%s", fmla_last_error());
  return bytes;
}

static int32_t random_between(uint64_t *state, int32_t low, int32_t high) {
  *state = *state * 6364136223846793005u + 1442695040888963407u;
  return low + (int32_t)((*state >> 33) % (uint64_t)(high - low + 1));
}

/* cu_seqlens_q and q_rope count as given or not; nothing is read through them here. */
static const int32_t given = 0;

static fmla_decode_params random_params(uint64_t *state) {
  fmla_decode_params p = FMLA_DECODE_PARAMS_INIT;
  p.batch_size = random_between(state, 0, 1) ? random_between(state, 0, 3) : random_between(state, 0, 300);
  p.num_kv_heads = random_between(state, 1, 3);
  p.num_q_heads = p.num_kv_heads * random_between(state, 1, 140);
  if (random_between(state, 0, 1)) { /* else those of DeepSeek-V3, which every kernel takes */
    p.head_dim_k = random_between(state, 2, 600);
    p.head_dim_v = random_between(state, 1, p.head_dim_k);
  }
  p.head_dim_rope = 1;
  p.max_seqlen_q = random_between(state, 0, 1) ? 1 : random_between(state, 0, 600);
  p.page_size = random_between(state, 1, 70);
  p.max_pages_per_seq = random_between(state, 0, 300);
  p.num_pages = random_between(state, 0, 1000);
  p.max_seqlen_k = random_between(state, 0, 1) ? 0 : random_between(state, 1, 9000);
  p.softmax_scale = 1;
  p.flags = random_between(state, 0, 1) ? FMLA_BATCH_INVARIANT : 0;
  p.q_rope = random_between(state, 0, 1) ? &given : NULL;
  p.cu_seqlens_q = random_between(state, 0, 1) ? &given : NULL;
  p.total_q = p.cu_seqlens_q != NULL ? random_between(state, 0, 1000) : 0;
  return p;
}

/* All extents but num_kv_heads, of which more for the same query heads make smaller groups, and head dims, for
   which another kernel may be chosen. */
enum { NUM_EXTENTS = 8 };

static fmla_decode_params grown(fmla_decode_params p, int extent, int32_t by) {
  switch (extent) {
  case 0:
    p.batch_size += by;
    break;
  case 1:
    p.num_q_heads += by % 10 * p.num_kv_heads;
    break;
  case 2:
    p.max_seqlen_q += by;
    break;
  case 3:
    p.page_size += by;
    break;
  case 4:
    p.max_pages_per_seq += by;
    break;
  case 5:
    p.num_pages += by;
    break;
  case 6:
    p.max_seqlen_k += p.max_seqlen_k > 0 ? by : 0; /* 0 is no bound */
    break;
  default:
    p.total_q += p.cu_seqlens_q != NULL ? by : 0;
  }
  return p;
}

static void test_never_shrinks(void **state) {
  (void)state;
  uint64_t seed = 1;
  int larger = 0;
  for (int i = 0; i < NUM_SHAPES; i++) {
    const fmla_decode_params p = random_params(&seed);
    const size_t before = workspace_of(&p);
    for (int extent = 0; extent < NUM_EXTENTS; extent++) {
      const fmla_decode_params next = grown(p, extent, random_between(&seed, 1, 50));
      const size_t after = workspace_of(&next);
      if (after < before)
        fail_msg("shape %d: from %zu to %zu bytes as extent %d grows", i, before, after, extent);
      larger += after > before;
    }
  }
  assert_true(larger > NUM_SHAPES);
}

/* Lengths, pages, tables and outputs have no say. */
static void test_depends_on_extents_alone(void **state) {
  (void)state;
  sample s = sample_new(&sample_long);
  const size_t bytes = workspace_of(&s.params);
  fmla_decode_params p = s.params;
  p.q = p.kv_cache = p.out = NULL;
  p.block_table = p.cache_seqlens = NULL;
  p.lse = NULL;
  p.cu_seqlens_q = &given;
  p.num_pages = INT32_MAX;
  assert_int_equal(workspace_of(&p), bytes);
  sample_free(&s);
}

static void test_promised_sizes(void **state) {
  (void)state;
  fmla_decode_params p = FMLA_DECODE_PARAMS_INIT;
  p.batch_size = 128;
  p.num_q_heads = 128;
  p.max_pages_per_seq = 1 << 20;
  p.softmax_scale = 1;
  assert_true(workspace_of(&p) < (size_t)80 * MEGABYTE);
  p.flags = FMLA_BATCH_INVARIANT;
  assert_true(workspace_of(&p) < (size_t)300 * MEGABYTE);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_never_shrinks),
      cmocka_unit_test(test_depends_on_extents_alone),
      cmocka_unit_test(test_promised_sizes),
  };
  return cmocka_run_group_tests_name("workspace", tests, open_sample_context, close_sample_context);
}
