/*
 * test_decode.c: the launches of decode and merge, their arguments, the checked mode, graphs, and failures.
 *
 * SPDX-License-Identifier: MIT
 */
#include "support.h"

#include "cuda/driver.h"

#include <stdio.h>
#include <unistd.h>

static fmla_context *context;
static fake_balance before;
static char *workspace;
static size_t workspace_bytes;

static int set_up(void **state) {
  (void)state;
  fake_set_current(NULL);
  fake_start(-1, CUDA_SUCCESS);
  memset(&fake.report, 0, sizeof fake.report);
  before = fake_now();
  return 0;
}

static fmla_status decode(const fmla_decode_params *p, void *stream) {
  return fmla_decode(context, p, workspace, workspace_bytes, stream);
}

/* ---- What is launched ---------------------------------------------------------------------------------- */

/* Two launches, no more: nothing is allocated and nobody waits. */
static void test_decode_calls(void **state) {
  (void)state;
  const fmla_decode_params p = valid_step();
  void *stream;
  assert_int_equal(fmla_stream_create(context, &stream), FMLA_OK);
  for (int captured = 0; captured < 2; captured++) {
    fake_capture(stream, captured);
    fake_start(-1, CUDA_SUCCESS);
    assert_int_equal(decode(&p, stream), FMLA_OK);
    ASSERT_CALLS("cuCtxPushCurrent", "cuLaunchKernelEx", "cuLaunchKernelEx", "cuCtxPopCurrent");
    const fake_launch *decode = fake_launch_at(0), *merge = fake_launch_at(1);
    assert_string_equal(decode->name, "fmlai_decode_portable_bf16_rows16");
    assert_string_equal(merge->name, "fmlai_merge_splits");
    assert_ptr_equal(decode->stream, stream);
    assert_ptr_equal(merge->stream, stream);
    assert_true(decode->chained);
    assert_true(merge->chained);
    assert_int_equal(merge->grid, 264);
    assert_int_equal(merge->block, 256);
    assert_int_equal(merge->shared_bytes, 0);
    assert_memory_equal(&decode->args.decode, &merge->args.decode, sizeof decode->args.decode);
  }
  assert_int_equal(fmla_stream_destroy(context, stream), FMLA_OK);
  assert_balanced(&before);
}

static void test_decode_arguments(void **state) {
  (void)state;
  fmla_decode_params p = valid_step();
  p.num_q_heads = 12;
  p.num_kv_heads = 3;
  p.max_seqlen_q = 4;
  p.head_dim_k = 96;
  p.head_dim_v = 64;
  p.head_dim_rope = 32;
  p.q_rope = (const char *)p.q + 4096;
  p.sink = p.lse;
  p.max_seqlen_k = 1000;
  p.max_sms = 9;
  p.flags = FMLA_CAUSAL | FMLA_EMPTY_LSE_POS_INF;
  p.q_stride_head = 72;
  p.block_table_stride = 40;
  p.lse_stride_batch = 1000;
  assert_int_equal(decode(&p, NULL), FMLA_OK);
  const fmlai_cuda_decode_args *a = &fake_launch_at(0)->args.decode;
  assert_ptr_equal(a->q, p.q);
  assert_ptr_equal(a->q_rope, p.q_rope);
  assert_ptr_equal(a->kv_cache, p.kv_cache);
  assert_ptr_equal(a->block_table, p.block_table);
  assert_ptr_equal(a->cache_seqlens, p.cache_seqlens);
  assert_null(a->cu_seqlens_q);
  assert_ptr_equal(a->sink, p.sink);
  assert_ptr_equal(a->out, p.out);
  assert_ptr_equal(a->lse, p.lse);
  assert_int_equal(a->q_stride_head, 72);
  assert_int_equal(a->q_stride_token, 12 * 72);
  assert_int_equal(a->q_stride_batch, 4 * 12 * 72);
  assert_int_equal(a->q_rope_stride_head, 32);
  assert_int_equal(a->q_rope_stride_token, 12 * 32);
  assert_int_equal(a->q_rope_stride_batch, 4 * 12 * 32);
  assert_int_equal(a->kv_stride_head, 96);
  assert_int_equal(a->kv_stride_token, 3 * 96);
  assert_int_equal(a->kv_stride_page, 64 * 3 * 96);
  assert_int_equal(a->block_table_stride, 40);
  assert_int_equal(a->out_stride_head, 64);
  assert_int_equal(a->out_stride_token, 12 * 64);
  assert_int_equal(a->out_stride_batch, 4 * 12 * 64);
  assert_int_equal(a->lse_stride_token, 1);
  assert_int_equal(a->lse_stride_head, 4);
  assert_int_equal(a->lse_stride_batch, 1000);
  assert_int_equal(a->total_q, 16);
  assert_int_equal(a->batch_size, 4);
  assert_int_equal(a->num_kv_heads, 3);
  assert_int_equal(a->group_heads, 4);
  assert_int_equal(a->head_dim_k, 96);
  assert_int_equal(a->head_dim_v, 64);
  assert_int_equal(a->head_dim_rope, 32);
  assert_int_equal(a->max_seqlen_q, 4);
  assert_int_equal(a->max_seqlen_k, 1000);
  assert_int_equal(a->page_size, 64);
  assert_int_equal(a->num_pages, 100);
  assert_int_equal(a->out_dtype, FMLA_DTYPE_BF16);
  assert_int_equal(a->flags, p.flags);
  assert_true(a->softmax_scale == p.softmax_scale);
  assert_int_equal(a->tile_rows, 16);
  assert_int_equal(a->num_ctas, 9);
  assert_int_equal(fake_launch_at(0)->grid, 9);
  assert_int_equal(fake_launch_at(1)->grid, 9);
}

static void test_merge(void **state) {
  (void)state;
  fmla_merge_params p = valid_merge();
  p.flags = FMLA_EMPTY_LSE_POS_INF;
  p.head_dim_v = 37;
  assert_int_equal(fmla_merge(context, &p, NULL), FMLA_OK);
  ASSERT_CALLS("cuCtxPushCurrent", "cuLaunchKernelEx", "cuCtxPopCurrent");
  const fake_launch *l = fake_launch_at(0);
  const fmlai_cuda_merge_args *a = &l->args.merge;
  assert_string_equal(l->name, "fmlai_merge_parts");
  assert_int_equal(l->grid, 2 * 5 * 16);
  assert_int_equal(l->block, FMLAI_CUDA_MERGE_THREADS);
  assert_ptr_equal(a->out_parts, p.out_parts);
  assert_ptr_equal(a->lse_parts, p.lse_parts);
  assert_null(a->sink);
  assert_ptr_equal(a->out, p.out);
  assert_ptr_equal(a->lse, p.lse);
  assert_int_equal(a->out_parts_stride_head, 37);
  assert_int_equal(a->out_parts_stride_token, 16 * 37);
  assert_int_equal(a->out_parts_stride_batch, 5 * 16 * 37);
  assert_int_equal(a->out_parts_stride_part, 2 * 5 * 16 * 37);
  assert_int_equal(a->lse_parts_stride_token, 1);
  assert_int_equal(a->lse_parts_stride_head, 5);
  assert_int_equal(a->lse_parts_stride_batch, 5 * 16);
  assert_int_equal(a->lse_parts_stride_part, 2 * 5 * 16);
  assert_int_equal(a->out_stride_head, 37);
  assert_int_equal(a->out_stride_token, 16 * 37);
  assert_int_equal(a->out_stride_batch, 5 * 16 * 37);
  assert_int_equal(a->lse_stride_token, 1);
  assert_int_equal(a->lse_stride_head, 5);
  assert_int_equal(a->lse_stride_batch, 5 * 16);
  assert_int_equal(a->num_parts, 3);
  assert_int_equal(a->batch_size, 2);
  assert_int_equal(a->seqlen_q, 5);
  assert_int_equal(a->num_q_heads, 16);
  assert_int_equal(a->head_dim_v, 37);
  assert_int_equal(a->part_dtype, FMLA_DTYPE_FP32);
  assert_int_equal(a->out_dtype, FMLA_DTYPE_BF16);
  assert_int_equal(a->flags, FMLA_EMPTY_LSE_POS_INF);
  p.seqlen_q = 1 << 28; /* more rows than CTAs */
  assert_int_equal(fmla_merge(context, &p, NULL), FMLA_OK);
  assert_int_equal(fake_launch_at(1)->grid, 132 * 16);
  p.seqlen_q = 1000; /* fewer tokens than CTAs */
  assert_int_equal(fmla_merge(context, &p, NULL), FMLA_OK);
  assert_int_equal(fake_launch_at(2)->grid, 132 * 16);
}

/* No rows, no launch; rows without sequences are launched for. */
static void test_nothing_to_do(void **state) {
  (void)state;
  fmla_decode_params p = valid_step();
  p.batch_size = 0;
  assert_int_equal(decode(&p, NULL), FMLA_OK);
  p = valid_step();
  p.max_seqlen_q = 0;
  assert_int_equal(decode(&p, NULL), FMLA_OK);
  fmla_merge_params m = valid_merge();
  m.batch_size = 0;
  assert_int_equal(fmla_merge(context, &m, NULL), FMLA_OK);
  m = valid_merge();
  m.seqlen_q = 0;
  assert_int_equal(fmla_merge(context, &m, NULL), FMLA_OK);
  assert_int_equal(fake_num_calls(), 0);
  p = valid_step();
  p.batch_size = 0;
  p.cu_seqlens_q = p.cache_seqlens;
  p.total_q = 3;
  assert_int_equal(decode(&p, NULL), FMLA_OK);
  assert_int_equal(fake_num_launches(), 2);
}

/* ---- The second launch, with what the driver and the code have ---------------------------------------------
 */

static bool merge_is_chained(void) {
  const fmla_decode_params p = valid_step();
  fmla_context *own = NULL;
  fmla_config config = FMLA_CONFIG_INIT;
  config.device = "cuda:0";
  if (fmla_open(&config, &own) != FMLA_OK || fmla_decode(own, &p, workspace, workspace_bytes, NULL) != FMLA_OK)
    _exit(2);
  fmla_close(own);
  return fake_launch_at(1)->chained;
}

/* Code that the driver compiled from the PTX for 8.0 does not wait by itself. */
static void test_chained(void **state) {
  (void)state;
  assert_true(merge_is_chained());
  fake.ptx_version = 80;
  fake_start(-1, CUDA_SUCCESS);
  assert_false(merge_is_chained());
  fake.ptx_version = 90;
}

/* ---- Checked mode ------------------------------------------------------------------------------------------
 */

static void test_checked(void **state) {
  (void)state;
  fmla_decode_params p = valid_step();
  p.flags = FMLA_CHECKED;
  assert_int_equal(decode(&p, NULL), FMLA_OK);
  ASSERT_CALLS("cuCtxPushCurrent", "cuStreamIsCapturing", "cuMemsetD32Async", "cuLaunchKernelEx",
               "cuMemcpyDtoHAsync", "cuStreamSynchronize", "cuLaunchKernelEx", "cuLaunchKernelEx",
               "cuCtxPopCurrent");
  assert_string_equal(fake_launch_at(0)->name, "fmlai_check_values");
  assert_int_equal(fake_launch_at(0)->grid, 1);
  assert_int_equal(fake_launch_at(0)->block, FMLAI_CUDA_CHECK_THREADS);
}

static void test_checked_while_captured(void **state) {
  (void)state;
  fmla_decode_params p = valid_step();
  void *stream;
  p.flags = FMLA_CHECKED;
  assert_int_equal(fmla_stream_create(context, &stream), FMLA_OK);
  fake_capture(stream, true);
  fake_start(-1, CUDA_SUCCESS);
  assert_fails(decode(&p, stream), FMLA_ERROR_UNSUPPORTED, "flags has FMLA_CHECKED");
  ASSERT_CALLS("cuCtxPushCurrent", "cuStreamIsCapturing", "cuCtxPopCurrent");
  fake_capture(stream, false);
  assert_int_equal(fmla_stream_destroy(context, stream), FMLA_OK);
  assert_balanced(&before);
}

/* What the device finds gets the CPU's sentences. */
static void test_checked_finds(void **state) {
  (void)state;
  static const struct {
    fmlai_cuda_check_report report;
    fmla_status status;
    const char *words;
  } findings[] = {
      {{FMLAI_CUDA_RULE_FIRST_QUERY, 0, 0, 3},
       FMLA_ERROR_INVALID_ARGUMENT,
       "cu_seqlens_q[0] is 3, but must be 0"},
      {{FMLAI_CUDA_RULE_QUERIES, 1, 5, 4},
       FMLA_ERROR_INVALID_ARGUMENT,
       "cu_seqlens_q[2] is 4, but must be at least the entry before, 5"},
      {{FMLAI_CUDA_RULE_QUERIES, 1, 5, 9},
       FMLA_ERROR_INVALID_ARGUMENT,
       "gives sequence 1 4 query tokens, but max_seqlen_q is 3"},
      {{FMLAI_CUDA_RULE_QUERIES, 1, INT32_MIN, INT32_MAX},
       FMLA_ERROR_INVALID_ARGUMENT,
       "gives sequence 1 4294967295 query"},
      {{FMLAI_CUDA_RULE_LAST_QUERY, 4, 0, 13},
       FMLA_ERROR_INVALID_ARGUMENT,
       "cu_seqlens_q[4] is 13, but must be at most total_q, which is 12"},
      {{FMLAI_CUDA_RULE_CACHE_SEQLEN, 2, 0, 2049},
       FMLA_ERROR_INVALID_ARGUMENT,
       "cache_seqlens[2] is 2049, but must be 0 to 2048"},
      {{FMLAI_CUDA_RULE_CACHE_SEQLEN, 2, 0, -1}, FMLA_ERROR_INVALID_ARGUMENT, "cache_seqlens[2] is -1"},
      {{FMLAI_CUDA_RULE_PAGE, 3, 17, 100},
       FMLA_ERROR_INVALID_ARGUMENT,
       "block_table[3][17] is 100, but must be 0 to num_pages - 1"},
      {{FMLAI_CUDA_RULE_PAGE, 3, 17, 99}, FMLA_ERROR_INTERNAL, "rule 5"},
      {{FMLAI_CUDA_RULE_QUERIES, 1, 5, 8}, FMLA_ERROR_INTERNAL, "rule 2"},
      {{77, 1, 2, 3}, FMLA_ERROR_INTERNAL, "rule 77"},
  };
  fmla_decode_params p = valid_step();
  p.flags = FMLA_CHECKED;
  p.cu_seqlens_q = p.cache_seqlens;
  p.total_q = 12;
  p.max_seqlen_q = 3;
  for (size_t i = 0; i < sizeof findings / sizeof *findings; i++) {
    fake.report = findings[i].report;
    fake_start(-1, CUDA_SUCCESS);
    assert_fails(decode(&p, NULL), findings[i].status, findings[i].words);
    assert_int_equal(fake_num_launches(), 1); /* nothing is decoded */
    assert_balanced(&before);
  }
}

/* The device judges by the caller's own bound, though fewer query tokens bound the kernels. */
static void test_checked_bound(void **state) {
  (void)state;
  fmla_decode_params p = valid_step();
  p.flags = FMLA_CHECKED;
  p.cu_seqlens_q = p.cache_seqlens;
  p.total_q = 2;
  p.max_seqlen_q = 10;
  assert_int_equal(decode(&p, NULL), FMLA_OK);
  assert_int_equal(fake_launch_at(0)->args.decode.max_seqlen_q, 10);
  assert_int_equal(fake_launch_at(1)->args.decode.max_seqlen_q, 2);
}

/* ---- Each call of the driver fails in turn ------------------------------------------------------------------
 */

static fmla_status call_decode(void) {
  const fmla_decode_params p = valid_step();
  return decode(&p, NULL);
}

static fmla_status call_checked(void) {
  fmla_decode_params p = valid_step();
  p.flags = FMLA_CHECKED;
  return decode(&p, NULL);
}

static fmla_status call_merge(void) {
  const fmla_merge_params p = valid_merge();
  return fmla_merge(context, &p, NULL);
}

static void test_failures(void **state) {
  (void)state;
  static const struct {
    fmla_status (*call)(void);
    int num_calls; /* of the driver */
  } calls[] = {{call_decode, 4}, {call_checked, 9}, {call_merge, 3}};
  const CUcontext currents[] = {NULL, fake_context(0), fake_context(1)};
  for (size_t c = 0; c < sizeof calls / sizeof *calls; c++)
    for (int r = 0; r < NUM_RESULTS; r++)
      for (int i = 0; i < calls[c].num_calls; i++)
        for (int k = 0; k < 3; k++) {
          fake_set_current(currents[k]);
          before = fake_now();
          fake_start(i, results[r]);
          assert_driver_failure(calls[c].call(), results[r]);
          assert_balanced(&before);
          if (strcmp(fake_failed_call(), "cuCtxPopCurrent") != 0)
            assert_ptr_equal(fake_current(), currents[k]);
        }
}

/* ---- FMLA_DEBUG ---------------------------------------------------------------------------------------------
 */

/* What is written to stderr goes to a file. */
static bool debug_line(const void *path) {
  char line[512] = "", choice[512] = "";
  const fmla_decode_params p = valid_step();
  setenv("FMLA_DEBUG", "1", 1);
  if (freopen(path, "w", stderr) == NULL)
    return false;
  fmla_context *own = open_device("cuda:0", NULL);
  if (fmla_decode(own, &p, workspace, workspace_bytes, NULL) != FMLA_OK)
    return false;
  fmla_close(own);
  fflush(stderr);
  FILE *file = fopen(path, "r");
  if (file == NULL || fgets(line, sizeof line, file) == NULL || fgets(choice, sizeof choice, file) == NULL)
    return false;
  fclose(file);
  return strcmp(choice, "flashmla: decode of 4 sequences, 16 heads with kernel portable_rows16: its tile is "
                        "the smallest that holds all query rows of a KV head\n") == 0 &&
         strstr(line, "opened cuda:0") != NULL;
}

static void test_debug(void **state) {
  (void)state;
  char path[] = "debug-XXXXXX";
  const int file = mkstemp(path);
  assert_true(file >= 0);
  close(file);
  in_child(debug_line, path);
  unlink(path);
}

static int open_context(void **state) {
  (void)state;
  use_fake_driver();
  context = open_device("cuda:0", NULL);
  fmla_decode_params largest = valid_step();
  largest.num_q_heads = 64;
  if (fmla_decode_workspace(context, &largest, &workspace_bytes) != FMLA_OK)
    return -1;
  workspace = malloc(workspace_bytes);
  return workspace != NULL ? 0 : -1;
}

static int close_context(void **state) {
  (void)state;
  fmla_close(context);
  free(workspace);
  return 0;
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup(test_decode_calls, set_up),
      cmocka_unit_test_setup(test_decode_arguments, set_up),
      cmocka_unit_test_setup(test_merge, set_up),
      cmocka_unit_test_setup(test_nothing_to_do, set_up),
      cmocka_unit_test_setup(test_chained, set_up),
      cmocka_unit_test_setup(test_checked, set_up),
      cmocka_unit_test_setup(test_checked_while_captured, set_up),
      cmocka_unit_test_setup(test_checked_finds, set_up),
      cmocka_unit_test_setup(test_checked_bound, set_up),
      cmocka_unit_test_setup(test_failures, set_up),
      cmocka_unit_test_setup(test_debug, set_up),
  };
  return cmocka_run_group_tests_name("cuda decode", tests, open_context, close_context);
}
