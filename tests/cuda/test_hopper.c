/*
 * test_hopper.c: when Hopper's kernels are chosen, how they are launched, and what describes the cache to the
 * copy engine.
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
  assert_string_equal(kernel_of(&p), "hopper_rows16");
  p.page_size = 48;
  assert_string_equal(kernel_of(&p), "hopper_rows16");
  p.page_size = 24;
  assert_string_equal(kernel_of(&p), "portable_rows16");
  p = valid_step();
  p.head_dim_v = 256;
  assert_string_equal(kernel_of(&p), "portable_rows16");
  p = valid_step();
  p.kv_stride_page = INT64_C(1) << 39;
  assert_string_equal(kernel_of(&p), "portable_rows16");
  p.num_pages = 1; /* then the stride says nothing */
  assert_string_equal(kernel_of(&p), "hopper_rows16");
}

/* The smallest tile that holds all query rows of a KV head, else the largest. */
static void test_rows(void **state) {
  (void)state;
  static const struct {
    const char *kernel, *function;
    int32_t num_q_heads, num_kv_heads, max_seqlen_q;
    uint32_t shared_bytes;
  } expected[] = {
      {"hopper_rows16", "fmlai_decode_hopper_bf16_rows16", 1, 1, 1, 231424},
      {"hopper_rows16", "fmlai_decode_hopper_bf16_rows16", 16, 1, 1, 231424},
      {"hopper_rows16", "fmlai_decode_hopper_bf16_rows16", 128, 8, 1, 231424},
      {"hopper_rows16", "fmlai_decode_hopper_bf16_rows16", 8, 1, 2, 231424},
      {"hopper_rows32", "fmlai_decode_hopper_bf16_rows32", 17, 1, 1, 229376},
      {"hopper_rows32", "fmlai_decode_hopper_bf16_rows32", 16, 1, 2, 229376},
      {"hopper_rows32", "fmlai_decode_hopper_bf16_rows32", 32, 1, 1, 229376},
      {"hopper_rows64", "fmlai_decode_hopper_bf16_rows64", 33, 1, 1, HOPPER_SHARED_BYTES},
      {"hopper_rows64", "fmlai_decode_hopper_bf16_rows64", 16, 1, 3, HOPPER_SHARED_BYTES},
      {"hopper_rows64", "fmlai_decode_hopper_bf16_rows64", 64, 1, 1, HOPPER_SHARED_BYTES},
      {"hopper_rows128", "fmlai_decode_hopper_bf16_rows128", 65, 1, 1, HOPPER_SHARED_BYTES},
      {"hopper_rows128", "fmlai_decode_hopper_bf16_rows128", 128, 1, 4, HOPPER_SHARED_BYTES},
  };
  for (size_t i = 0; i < sizeof expected / sizeof *expected; i++) {
    fmla_decode_params p = valid_step();
    p.num_q_heads = expected[i].num_q_heads;
    p.num_kv_heads = expected[i].num_kv_heads;
    p.max_seqlen_q = expected[i].max_seqlen_q;
    assert_string_equal(kernel_of(&p), expected[i].kernel);
    assert_int_equal(decode(&p, -1), FMLA_OK);
    const fake_launch *l = fake_launch_at(0);
    assert_string_equal(l->name, expected[i].function);
    assert_int_equal(l->block, HOPPER_THREADS);
    assert_int_equal(l->shared_bytes, expected[i].shared_bytes);
    assert_true((int32_t)l->shared_bytes <= fake.devices[0].shared_per_cta);
    assert_int_equal(1 << l->args.decode.tile_rows_log2, l->args.decode.tile_rows);
  }
}

static void test_fp16(void **state) {
  (void)state;
  fmla_decode_params p = valid_step();
  p.q_dtype = FMLA_DTYPE_FP16;
  p.kv_format = FMLA_KV_FP16;
  assert_int_equal(decode(&p, -1), FMLA_OK);
  assert_string_equal(fake_launch_at(0)->name, "fmlai_decode_hopper_fp16_rows16");
}

/* The variant decides over bits, so that of a sequence may not depend on another's query tokens. */
static void test_invariant_rows(void **state) {
  (void)state;
  static const int32_t longest[] = {1, 2, 3, 100, INT32_MAX};
  for (size_t i = 0; i < sizeof longest / sizeof *longest; i++) {
    fmla_decode_params p = valid_step();
    p.flags = FMLA_BATCH_INVARIANT;
    p.cu_seqlens_q = p.cache_seqlens;
    p.total_q = 1000;
    p.max_seqlen_q = longest[i];
    assert_string_equal(kernel_of(&p), "hopper_rows16");
    assert_int_equal(decode(&p, -1), FMLA_OK);
  }
}

/* Growing extents lead to another variant, but not to less workspace. */
static void test_workspace_never_shrinks(void **state) {
  (void)state;
  static const uint32_t flags[] = {0, FMLA_BATCH_INVARIANT};
  for (int f = 0; f < 2; f++) {
    fmla_decode_params p = valid_step();
    p.flags = flags[f];
    size_t before = 0;
    for (int step = 0; step < 300; step++) {
      p.num_q_heads = 1 + step / 2;
      p.max_seqlen_q = 1 + step / 50;
      p.batch_size += step % 3 == 0;
      p.page_size = step % 4 == 0 ? 8 : 64; /* that are not for Hopper's kernels in turn with such as are */
      p.max_pages_per_seq = 2048 / p.page_size;
      size_t after = 0;
      assert_int_equal(fmla_decode_workspace(context, &p, &after), FMLA_OK);
      if (after < before)
        fail_msg("from %zu to %zu with %d heads, %d tokens", before, after, (int)p.num_q_heads,
                 (int)p.max_seqlen_q);
      before = after;
    }
  }
}

/* Pairs of CTAs, where a KV head has rows for two tiles and two SMs may be used; two pairs together, where they
 * are filled. */
static void test_pairs(void **state) {
  (void)state;
  static const struct {
    int32_t num_q_heads, max_seqlen_q, max_sms, grid, together;
  } expected[] = {{64, 1, 0, SMS, 1}, {65, 1, 0, SMS, 2}, {128, 1, 0, SMS, 2}, {16, 8, 0, SMS, 2},
                  {128, 1, 7, 6, 2},  {128, 1, 1, 1, 1},  {64, 1, 7, 7, 1},    {128, 2, 0, SMS, 4},
                  {96, 2, 0, SMS, 4}, {64, 5, 0, SMS, 2}, {128, 3, 0, SMS, 2}, {128, 4, 0, SMS, 4},
                  {128, 2, 7, 4, 4},  {128, 2, 3, 2, 2},  {128, 2, 1, 1, 1}};
  for (size_t i = 0; i < sizeof expected / sizeof *expected; i++) {
    fmla_decode_params p = valid_step();
    p.num_q_heads = expected[i].num_q_heads;
    p.max_seqlen_q = expected[i].max_seqlen_q;
    p.max_sms = expected[i].max_sms;
    assert_int_equal(decode(&p, -1), FMLA_OK);
    const fake_launch *l = fake_launch_at(0);
    assert_string_equal(l->name, expected[i].together > 1 ? "fmlai_decode_hopper_bf16_rows128"
                                                          : "fmlai_decode_hopper_bf16_rows64");
    assert_int_equal(l->grid, expected[i].grid);
    assert_int_equal(l->block, HOPPER_THREADS);
    assert_int_equal(l->shared_bytes, HOPPER_SHARED_BYTES);
    assert_int_equal(l->args.decode.num_ctas, expected[i].grid);
    assert_int_equal(l->args.decode.tiles_together, expected[i].together);
    assert_int_equal(1 << l->args.decode.tiles_together_log2, expected[i].together);
    assert_int_equal(1 << l->args.decode.tile_rows_log2, l->args.decode.tile_rows);
  }
  /* Sequences of one token each would leave half of the CTAs idle. */
  fmla_decode_params p = valid_step();
  p.num_q_heads = 128;
  p.max_seqlen_q = 2;
  p.cu_seqlens_q = p.cache_seqlens;
  p.total_q = 8;
  assert_int_equal(decode(&p, -1), FMLA_OK);
  assert_int_equal(fake_launch_at(0)->args.decode.tiles_together, 2);
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
  size_t bytes;
  assert_int_equal(fmla_decode_workspace(context, &p, &bytes), FMLA_OK);
  const size_t slots = (size_t)p.batch_size * 2 * 2; /* two tiles, 2048 tokens in two splits */
  assert_true(bytes >= slots * HOPPER_ROWS * (512 + 1) * sizeof(float));
}

/* A driver that is told to compile everything has no Hopper code, and the others serve. `image` is the one that
 * it fails on here. */
static fmla_context *open_without(int image) {
  fake_start(-1, CUDA_SUCCESS);
  fmla_close(open_device("cuda:0", NULL));
  int load = -1;
  for (int i = 0; i <= image; i++)
    while (strcmp(fake_call(++load), "cuModuleLoadData") != 0)
      ;
  fake_start(load, CUDA_ERROR_NO_BINARY_FOR_GPU);
  return open_device("cuda:0", NULL);
}

static void test_no_machine_code(void **state) {
  (void)state;
  fmla_context *usual = context;
  fmla_decode_params p = valid_step();
  context = open_without(FMLAI_CUDA_IMAGE_decode_hopper_few);
  assert_string_equal(kernel_of(&p), "portable_rows16");
  fmla_close(context);
  p.num_q_heads = 64;
  context = open_without(FMLAI_CUDA_IMAGE_decode_hopper);
  assert_string_equal(kernel_of(&p), "portable_rows64");
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
      cmocka_unit_test(test_choice),
      cmocka_unit_test(test_rows),
      cmocka_unit_test(test_fp16),
      cmocka_unit_test(test_invariant_rows),
      cmocka_unit_test(test_workspace_never_shrinks),
      cmocka_unit_test(test_pairs),
      cmocka_unit_test(test_boxes),
      cmocka_unit_test(test_map_fails),
      cmocka_unit_test(test_invariant),
      cmocka_unit_test(test_no_machine_code),
  };
  return cmocka_run_group_tests_name("cuda hopper", tests, set_up, tear_down);
}
