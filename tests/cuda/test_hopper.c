/*
 * test_hopper.c: when Hopper's kernel is chosen, how it is launched, and what describes the cache to the copy
 * engine.
 *
 * SPDX-License-Identifier: MIT
 */
#include "support.h"

#include "cuda/variant.h"

enum { SMS = 132 };

static fmla_context *context;

static const char *kernel_of(const fmla_decode_params *p) {
  const char *kernel = NULL;
  if (fmla_decode_kernel(context, p, &kernel, NULL) != FMLA_OK)
    fail_msg("fmla_decode_kernel: %s", fmla_last_error());
  return kernel;
}

static fmla_status decode(const fmla_decode_params *p, int failing_call) {
  size_t bytes = 0;
  assert_int_equal(fmla_decode_workspace(context, p, &bytes), FMLA_OK);
  void *workspace = malloc(bytes);
  assert_non_null(workspace);
  fake_start(failing_call, CUDA_ERROR_OUT_OF_MEMORY);
  const fmla_status status = fmla_decode(context, p, workspace, bytes, NULL);
  free(workspace);
  return status;
}

static void test_choice(void **state) {
  (void)state;
  fmla_decode_params p = valid_step();
  assert_string_equal(kernel_of(&p), "hopper_rows64");
  p.page_size = 48;
  assert_string_equal(kernel_of(&p), "hopper_rows64");
  p.page_size = 24;
  assert_string_equal(kernel_of(&p), "portable_rows16");
  p = valid_step();
  p.head_dim_v = 256;
  assert_string_equal(kernel_of(&p), "portable_rows16");
  p = valid_step();
  p.kv_stride_page = INT64_C(1) << 39;
  assert_string_equal(kernel_of(&p), "portable_rows16");
  p.num_pages = 1; /* then the stride says nothing */
  assert_string_equal(kernel_of(&p), "hopper_rows64");
}

/* Pairs of CTAs, where a KV head has rows for two tiles. */
static void test_pairs(void **state) {
  (void)state;
  static const struct {
    int32_t num_q_heads, max_seqlen_q, max_sms, grid, together;
  } expected[] = {{64, 1, 0, SMS, 1}, {65, 1, 0, SMS, 2}, {128, 1, 0, SMS, 2}, {16, 8, 0, SMS, 2},
                  {128, 1, 7, 6, 2},  {128, 1, 1, 1, 1},  {16, 1, 7, 7, 1}};
  for (size_t i = 0; i < sizeof expected / sizeof *expected; i++) {
    fmla_decode_params p = valid_step();
    p.num_q_heads = expected[i].num_q_heads;
    p.max_seqlen_q = expected[i].max_seqlen_q;
    p.max_sms = expected[i].max_sms;
    assert_int_equal(decode(&p, -1), FMLA_OK);
    const fake_launch *l = fake_launch_at(0);
    assert_string_equal(l->name, "fmlai_decode_hopper_bf16_rows64");
    assert_int_equal(l->grid, expected[i].grid);
    assert_int_equal(l->block, HOPPER_THREADS);
    assert_int_equal(l->shared_bytes, HOPPER_SHARED_BYTES);
    assert_int_equal(l->args.decode.num_ctas, expected[i].grid);
    assert_int_equal(l->args.decode.tiles_together, expected[i].together);
    assert_int_equal(1 << l->args.decode.tile_rows_log2, l->args.decode.tile_rows);
  }
}

/* As many keys as divide a page and a tile. */
static void test_boxes(void **state) {
  (void)state;
  static const int32_t expected[][2] = {{16, 16}, {32, 32},  {48, 16},  {64, 64},
                                        {96, 32}, {128, 64}, {1024, 64}};
  for (size_t i = 0; i < sizeof expected / sizeof *expected; i++) {
    fmla_decode_params p = valid_step();
    p.page_size = expected[i][0];
    assert_int_equal(decode(&p, -1), FMLA_OK);
    assert_int_equal(fake_launch_at(0)->args.decode.box_keys, expected[i][1]);
  }
}

/* A map that the driver refuses is an error with its words, and nothing is launched. */
static void test_map_fails(void **state) {
  (void)state;
  const fmla_decode_params p = valid_step();
  assert_int_equal(decode(&p, -1), FMLA_OK);
  int index = 0;
  while (strcmp(fake_call(index), "cuTensorMapEncodeTiled") != 0)
    index++;
  assert_fails(decode(&p, index), FMLA_ERROR_OUT_OF_MEMORY, "cuTensorMapEncodeTiled");
  assert_int_equal(fake_num_launches(), 0);
}

/* Splits in the batch-invariant mode are of pairs of tiles. */
static void test_invariant(void **state) {
  (void)state;
  fmla_decode_params p = valid_step();
  p.num_q_heads = 128;
  p.flags = FMLA_BATCH_INVARIANT;
  assert_int_equal(decode(&p, -1), FMLA_OK);
  assert_int_equal(fake_launch_at(0)->args.decode.num_split_tiles, 2 * p.batch_size);
}

/* A driver that is told to compile everything has no Hopper code, and the others serve. */
static void test_no_machine_code(void **state) {
  (void)state;
  fake_start(-1, CUDA_SUCCESS);
  fmla_close(open_device("cuda:0", NULL));
  int load = 0;
  while (strcmp(fake_call(load), "cuModuleLoadData") != 0)
    load++;
  while (strcmp(fake_call(++load), "cuModuleLoadData") != 0)
    ;
  fake_start(load, CUDA_ERROR_NO_BINARY_FOR_GPU);
  fmla_context *usual = context;
  context = open_device("cuda:0", NULL);
  const fmla_decode_params p = valid_step();
  assert_string_equal(kernel_of(&p), "portable_rows16");
  fmla_close(context);
  context = usual;
}

static int set_up(void **state) {
  (void)state;
  use_fake_driver();
  fake.devices[0].major = 9;
  context = open_device("cuda:0", NULL);
  return 0;
}

static int tear_down(void **state) {
  (void)state;
  fmla_close(context);
  return 0;
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_choice),    cmocka_unit_test(test_pairs),
      cmocka_unit_test(test_boxes),     cmocka_unit_test(test_map_fails),
      cmocka_unit_test(test_invariant), cmocka_unit_test(test_no_machine_code),
  };
  return cmocka_run_group_tests_name("cuda hopper", tests, set_up, tear_down);
}
