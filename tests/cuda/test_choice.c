/*
 * test_choice.c: which variant a step gets, how it lies on the device, its workspace, and the rules of GPUs.
 *
 * SPDX-License-Identifier: MIT
 */
#include "support.h"

#include "cuda/variant.h"

enum { SMS = 132, SMALL_SMS = 128 };

static fmla_context *big, *small; /* "cuda:0" with 227 KiB for a CTA, "cuda:1" with 99 KiB */

static size_t workspace_bytes(const fmla_context *context, const fmla_decode_params *p) {
  size_t bytes = 0;
  if (fmla_decode_workspace(context, p, &bytes) != FMLA_OK)
    fail_msg("fmla_decode_workspace: %s", fmla_last_error());
  return bytes;
}

/* The decode kernel's launch, with exactly the workspace that is asked for. */
static fake_launch launch(fmla_context *context, const fmla_decode_params *p) {
  const size_t bytes = workspace_bytes(context, p);
  char *workspace = malloc(bytes);
  assert_non_null(workspace);
  fake_start(-1, CUDA_SUCCESS);
  if (fmla_decode(context, p, workspace, bytes, NULL) != FMLA_OK)
    fail_msg("fmla_decode: %s", fmla_last_error());
  assert_int_equal(fake_num_launches(), 2);
  const fake_launch l = *fake_launch_at(0);

  /* The parts lie in the workspace, aligned, one behind the other, and as large as the kernels take them for.
   */
  const fmlai_cuda_decode_args *a = &l.args.decode;
  const bool invariant = (p->flags & FMLA_BATCH_INVARIANT) != 0;
  const char *lse = (const char *)a->partial_lse, *o = (const char *)a->partial_o;
  const char *rounds = (const char *)a->num_rounds, *tiles = (const char *)a->split_tiles;
  assert_true(rounds >= workspace + sizeof(fmlai_cuda_check_report));
  assert_true(tiles >= rounds + sizeof(int32_t));
  assert_true(lse >= tiles + (size_t)a->num_ctas * sizeof(fmlai_cuda_split_tile));
  assert_int_equal((uintptr_t)tiles % 256 + (uintptr_t)lse % 256 + (uintptr_t)o % 256, 0);
  if (!invariant) {
    const size_t rows = 2 * (size_t)a->num_ctas * (size_t)a->tile_rows;
    assert_true(lse >= tiles + FMLAI_CUDA_MAX_ROUNDS * (size_t)a->num_ctas * sizeof(fmlai_cuda_split_tile));
    assert_true(o >= lse + rows * sizeof(float));
    assert_true(o + rows * (size_t)a->head_dim_v * sizeof(float) <= workspace + bytes);
  }
  free(workspace);
  return l;
}

/* ---- Variants ------------------------------------------------------------------------------------------ */

typedef struct expectation {
  int32_t device; /* N of "cuda:N" */
  int32_t num_q_heads, num_kv_heads, max_seqlen_q, head_dim_k, head_dim_v, max_sms;
  int32_t grid;
  const char *kernel;
} expectation;

static const expectation expectations[] = {
    /* The smallest tile that holds all rows of a KV head; two CTAs on an SM with 16 rows. */
    {0, 1, 1, 1, 576, 512, 0, 2 * SMS, "portable_rows16"},
    {0, 16, 1, 1, 576, 512, 0, 2 * SMS, "portable_rows16"},
    {0, 128, 8, 1, 576, 512, 0, 2 * SMS, "portable_rows16"},
    {0, 8, 1, 2, 576, 512, 0, 2 * SMS, "portable_rows16"},
    {0, 17, 1, 1, 576, 512, 0, SMS, "portable_rows32"},
    {0, 16, 1, 2, 576, 512, 0, SMS, "portable_rows32"},
    {0, 64, 1, 1, 576, 512, 0, SMS, "portable_rows64"},
    {0, 128, 1, 1, 576, 512, 0, SMS, "portable_rows64"},
    {0, 128, 1, 4, 576, 512, 0, SMS, "portable_rows64"},
    /* Only so wide a V, and only so much shared memory. */
    {0, 128, 1, 1, 576, 528, 0, SMS, "portable_rows32"},
    {1, 16, 1, 1, 576, 512, 0, SMALL_SMS, "portable_rows16"},
    {1, 128, 1, 1, 576, 512, 0, SMALL_SMS, "portable_rows32"},
    {1, 128, 1, 1, 64, 64, 0, SMALL_SMS, "portable_rows64"},
    {1, 16, 1, 1, 64, 64, 0, 2 * SMALL_SMS, "portable_rows16"},
    /* A grid that is to keep to some SMs has no more CTAs than those. */
    {0, 16, 1, 1, 576, 512, 100, 100, "portable_rows16"},
    {0, 16, 1, 1, 576, 512, 1, 1, "portable_rows16"},
    {0, 16, 1, 1, 576, 512, SMS, 2 * SMS, "portable_rows16"},
    {0, 16, 1, 1, 576, 512, 1000, 2 * SMS, "portable_rows16"},
    {0, 64, 1, 1, 576, 512, 7, 7, "portable_rows64"},
};

/* As many stages as fit beside the CTAs that share an SM, each of which loses 1 KiB to the driver. */
static void assert_stages(const expectation *e, const fmlai_cuda_variant *v, const fake_launch *l) {
  const fake_device *d = &fake.devices[e->device];
  const int32_t ctas = e->grid > d->num_sms ? 2 : 1, stages = l->args.decode.num_stages;
  const int32_t share = d->shared_per_sm / ctas - 1024;
  const int32_t most = share < d->shared_per_cta ? share : d->shared_per_cta;
  assert_int_equal(l->shared_bytes, fmlai_cuda_shared_bytes(v, e->head_dim_k, stages));
  assert_true(stages >= 2 && stages <= FMLAI_CUDA_MAX_STAGES && (int32_t)l->shared_bytes <= most);
  assert_true(stages == FMLAI_CUDA_MAX_STAGES || fmlai_cuda_shared_bytes(v, e->head_dim_k, stages + 1) > most);
}

static void test_variants(void **state) {
  (void)state;
  for (size_t i = 0; i < sizeof expectations / sizeof *expectations; i++) {
    const expectation *e = &expectations[i];
    fmla_context *context = e->device == 1 ? small : big;
    fmla_decode_params p = valid_step();
    p.num_q_heads = e->num_q_heads;
    p.num_kv_heads = e->num_kv_heads;
    p.max_seqlen_q = e->max_seqlen_q;
    p.head_dim_k = e->head_dim_k;
    p.head_dim_v = e->head_dim_v;
    p.max_sms = e->max_sms;
    const char *kernel;
    assert_int_equal(fmla_decode_kernel(context, &p, &kernel, NULL), FMLA_OK);
    const fake_launch l = launch(context, &p);
    if (strcmp(kernel, e->kernel) != 0 || (int32_t)l.grid != e->grid)
      fail_msg("expectation %zu: %s with %u CTAs", i, kernel, l.grid);
    const fmlai_cuda_variant *v = fmlai_cuda_variants;
    while (strcmp(v->name, kernel) != 0)
      v++;
    assert_string_equal(l.name, v->functions[FMLAI_CUDA_BF16]);
    assert_int_equal(l.block, v->warps * 32);
    assert_int_equal(l.args.decode.tile_rows, v->rows);
    assert_stages(e, v, &l);
  }
}

static void test_stages(void **state) {
  (void)state;
  for (int v = 0; v < FMLAI_CUDA_NUM_PORTABLE; v++)
    for (int32_t device = 0; device < 2; device++)
      for (int32_t head_dim_k = 16; head_dim_k <= 576; head_dim_k += 16) {
        fmla_decode_params p = valid_step();
        p.num_q_heads = fmlai_cuda_variants[v].rows;
        p.head_dim_k = head_dim_k;
        p.head_dim_v = 16;
        const fake_launch l = launch(device == 1 ? small : big, &p);
        const expectation e = {.device = device, .head_dim_k = head_dim_k, .grid = (int32_t)l.grid};
        int index = v;
        while (fmlai_cuda_variants[index].rows != l.args.decode.tile_rows)
          index--;
        assert_stages(&e, &fmlai_cuda_variants[index], &l);
      }
}

/* Registers may not allow a second CTA. */
static void test_registers(void **state) {
  (void)state;
  const fmla_decode_params p = valid_step();
  fake.ctas_per_sm = 1;
  fmla_context *context = open_device("cuda:0", NULL);
  fake.ctas_per_sm = 2;
  assert_int_equal(launch(context, &p).grid, SMS);
  fmla_close(context);
}

static void test_types(void **state) {
  (void)state;
  fmla_decode_params p = valid_step();
  p.q_dtype = FMLA_DTYPE_FP16;
  p.kv_format = FMLA_KV_FP16;
  p.out_dtype = FMLA_DTYPE_FP32;
  const fake_launch l = launch(big, &p);
  assert_string_equal(l.name, "fmlai_decode_portable_fp16_rows16");
  assert_int_equal(l.args.decode.out_dtype, FMLA_DTYPE_FP32);
}

static fmla_status kernel_of(const char *device, const char *name, const fmla_decode_params *p) {
  fmla_context *context = open_device(device, name);
  const char *kernel;
  const fmla_status status = fmla_decode_kernel(context, p, &kernel, NULL);
  fmla_close(context);
  return status;
}

static void test_named_kernels(void **state) {
  (void)state;
  fmla_decode_params p = valid_step();
  assert_int_equal(kernel_of("cuda:0", "portable_rows64", &p), FMLA_OK);
  assert_int_equal(kernel_of("cuda:1", "portable_rows32", &p), FMLA_OK);
  assert_fails(kernel_of("cuda:1", "portable_rows64", &p), FMLA_ERROR_UNSUPPORTED,
               "bytes of shared memory for head_dim_k 576");
  p.head_dim_v = 576;
  assert_fails(kernel_of("cuda:0", "portable_rows64", &p), FMLA_ERROR_UNSUPPORTED, "head_dim_v up to 512 only");
}

/* ---- Batch invariance ---------------------------------------------------------------------------------- */

/* The variant decides over bits, so that of a sequence may not depend on another's query tokens. */
static void test_invariant_variant(void **state) {
  (void)state;
  static const int32_t longest[] = {1, 2, 3, 100, INT32_MAX};
  for (size_t i = 0; i < sizeof longest / sizeof *longest; i++) {
    fmla_decode_params p = valid_step();
    const char *kernel;
    p.flags = FMLA_BATCH_INVARIANT;
    p.cu_seqlens_q = p.cache_seqlens;
    p.total_q = 1000;
    p.max_seqlen_q = longest[i];
    assert_int_equal(fmla_decode_kernel(big, &p, &kernel, NULL), FMLA_OK);
    assert_string_equal(kernel, "portable_rows16");
  }
}

static void test_invariant_workspace(void **state) {
  (void)state;
  fmla_decode_params p = valid_step();
  p.flags = FMLA_BATCH_INVARIANT;
  p.num_q_heads = 128;
  p.max_seqlen_q = 3;
  launch(big, &p);
  /* 384 rows are 6 tiles of 64; 2048 tokens make 2 splits. */
  const size_t slots = 4 * 6 * 2, needed = slots * 64 * (512 + 1) * sizeof(float);
  assert_true(workspace_bytes(big, &p) >= needed && workspace_bytes(big, &p) < needed + 32768);

  /* Query lengths that overlap where they should not are still within bounds. */
  fmla_decode_params ragged = p;
  ragged.cu_seqlens_q = p.cache_seqlens;
  ragged.total_q = 3;
  assert_int_equal(workspace_bytes(big, &ragged), workspace_bytes(big, &p));

  p.batch_size = 128;
  p.max_seqlen_q = 1;
  p.max_pages_per_seq = 4096;
  assert_true(workspace_bytes(big, &p) < 300 * 1000 * 1000);
}

/* ---- Workspace ----------------------------------------------------------------------------------------- */

static void test_normal_workspace(void **state) {
  (void)state;
  fmla_decode_params p = valid_step();
  p.num_q_heads = 128;
  const size_t needed = 2 * SMS * 64 * (512 + 1) * sizeof(float);
  assert_true(workspace_bytes(big, &p) >= needed && workspace_bytes(big, &p) < needed + 32768);
  p.max_sms = 10;
  assert_true(workspace_bytes(big, &p) < 11 * needed / SMS);
}

/* An extent that grows may lead to another variant, but not to less workspace. */
static void test_workspace_never_shrinks(void **state) {
  (void)state;
  static const uint32_t flags[] = {0, FMLA_BATCH_INVARIANT};
  for (int f = 0; f < 2; f++)
    for (int c = 0; c < 2; c++) {
      const fmla_context *context = c == 0 ? big : small;
      fmla_decode_params p = valid_step();
      p.flags = flags[f];
      p.num_q_heads = 2;
      p.head_dim_k = p.head_dim_v = 16;
      size_t before = 0;
      for (int step = 0; step < 400; step++) {
        switch (step * 7 % 5) {
        case 0:
          p.num_q_heads += p.num_q_heads < 128;
          break;
        case 1:
          p.max_seqlen_q += step % 20 == 0;
          break;
        case 2:
          p.head_dim_k += p.head_dim_k < 576 ? 16 : 0;
          break;
        case 3:
          p.head_dim_v += p.head_dim_v < p.head_dim_k ? 16 : 0;
          break;
        default:
          p.batch_size++;
          p.max_pages_per_seq++;
        }
        const size_t after = workspace_bytes(context, &p);
        if (after < before)
          fail_msg("from %zu to %zu with %d heads, %d tokens, head dims %d and %d", before, after,
                   (int)p.num_q_heads, (int)p.max_seqlen_q, (int)p.head_dim_k, (int)p.head_dim_v);
        before = after;
      }
      assert_int_equal(p.head_dim_v, 576);
    }
}

static void test_workspace_too_small(void **state) {
  (void)state;
  const fmla_decode_params p = valid_step();
  const size_t bytes = workspace_bytes(big, &p);
  char *workspace = malloc(bytes);
  fake_start(-1, CUDA_SUCCESS);
  assert_fails(fmla_decode(big, &p, workspace, bytes - 1, NULL), FMLA_ERROR_INVALID_ARGUMENT,
               "workspace_bytes is");
  assert_fails(fmla_decode(big, &p, NULL, bytes, NULL), FMLA_ERROR_INVALID_ARGUMENT, "workspace is NULL");
  assert_int_equal(fake_num_calls(), 0);
  free(workspace);
}

/* ---- Rules --------------------------------------------------------------------------------------------- */

#define REFUSED(change, words)                                                                                 \
  do {                                                                                                         \
    fmla_decode_params p = valid_step();                                                                       \
    size_t bytes;                                                                                              \
    const char *kernel;                                                                                        \
    change;                                                                                                    \
    assert_fails(fmla_decode_workspace(big, &p, &bytes), FMLA_ERROR_UNSUPPORTED, words);                       \
    assert_fails(fmla_decode_kernel(big, &p, &kernel, NULL), FMLA_ERROR_UNSUPPORTED, words);                   \
    assert_fails(fmla_decode(big, &p, memory, sizeof memory, NULL), FMLA_ERROR_UNSUPPORTED, words);            \
  } while (0)

static char memory[64];

static void test_rules(void **state) {
  (void)state;
  fake_start(-1, CUDA_SUCCESS);
  REFUSED(p.head_dim_k = 592, "head_dim_k is 592, but on a GPU must be at most 576");
  REFUSED(p.head_dim_k = 568, "head_dim_k is 568, but on a GPU must be a multiple of 16");
  REFUSED(p.head_dim_v = 500, "head_dim_v is 500, but on a GPU must be a multiple of 16");
  REFUSED((p.q_rope = p.q, p.head_dim_rope = 56), "head_dim_rope is 56, but on a GPU must be a multiple of 16");
  REFUSED(p.q_stride_head = 580, "q_stride_head is 580, but on a GPU must be a multiple of 8 elements");
  REFUSED((p.max_seqlen_q = 2, p.q_stride_token = 16 * 576 + 4), "q_stride_token is 9220");
  REFUSED(p.q_stride_batch = 16 * 576 + 1, "q_stride_batch is 9217");
  REFUSED((p.q_rope = p.q, p.q_rope_stride_head = 68), "q_rope_stride_head is 68");
  REFUSED((p.q_rope = p.q, p.max_seqlen_q = 2, p.q_rope_stride_token = 1025), "q_rope_stride_token is 1025");
  REFUSED((p.q_rope = p.q, p.q_rope_stride_batch = 1026), "q_rope_stride_batch is 1026");
  REFUSED(p.kv_stride_page = 64 * 576 + 2, "kv_stride_page is 36866");
  REFUSED(p.kv_stride_token = 577, "kv_stride_token is 577");
  REFUSED((p.num_kv_heads = 2, p.kv_stride_head = 578), "kv_stride_head is 578");
  REFUSED(p.out_stride_head = 516, "out_stride_head is 516, but on a GPU must be a multiple of 8 elements");
  REFUSED((p.out_dtype = FMLA_DTYPE_FP32, p.out_stride_head = 514),
          "out_stride_head is 514, but on a GPU must be a multiple of 4 elements");
  REFUSED((p.max_seqlen_q = 2, p.out_stride_token = 16 * 512 + 4), "out_stride_token is 8196");
  REFUSED(p.out_stride_batch = 16 * 512 + 4, "out_stride_batch is 8196");
  REFUSED((p.max_seqlen_q = INT32_MAX, p.batch_size = 1), "query rows of a KV head");
  REFUSED((p.page_size = INT32_MAX, p.max_pages_per_seq = 1),
          "is 2147483647, but on a GPU must be at most 2147482624");
  REFUSED((p.batch_size = 1 << 30, p.num_q_heads = 1024, p.num_kv_heads = 1024), "row tiles");
  assert_int_equal(fake_num_calls(), 0);
}

static void test_allowed(void **state) {
  (void)state;
  fmla_decode_params p = valid_step();
  p.num_pages = p.batch_size = p.num_q_heads = 1; /* whose strides lead nowhere */
  p.q_stride_batch = p.q_stride_token = p.q_stride_head = 1;
  p.kv_stride_page = p.kv_stride_head = 1;
  p.kv_stride_token = 576;
  p.out_stride_batch = p.out_stride_token = p.out_stride_head = 3;
  p.q_rope_stride_head = 1; /* without q_rope */
  p.lse_stride_head = 5;
  p.block_table_stride = 33;
  launch(big, &p);
  p = valid_step();
  p.out_dtype = FMLA_DTYPE_FP32;
  p.out_stride_head = 516;
  p.kv_stride_page = p.kv_stride_token = 0;
  launch(big, &p);
  /* A bound on q that is none. */
  p = valid_step();
  p.cu_seqlens_q = p.cache_seqlens;
  p.total_q = 5;
  p.max_seqlen_q = INT32_MAX;
  assert_int_equal(launch(big, &p).args.decode.max_seqlen_q, 5);
}

static void test_addresses(void **state) {
  (void)state;
  const size_t offsets[] = {offsetof(fmla_decode_params, q), offsetof(fmla_decode_params, q_rope),
                            offsetof(fmla_decode_params, kv_cache), offsetof(fmla_decode_params, out)};
  const char *const names[] = {"q is 0x", "q_rope is 0x", "kv_cache is 0x", "out is 0x"};
  fmla_decode_params valid = valid_step();
  valid.q_rope = valid.q;
  const size_t bytes = workspace_bytes(big, &valid);
  char *workspace = malloc(bytes);
  fake_start(-1, CUDA_SUCCESS);
  for (int i = 0; i < 4; i++) {
    fmla_decode_params p = valid;
    char **pointer = (char **)(void *)((char *)&p + offsets[i]);
    *pointer += 8;
    assert_fails(fmla_decode(big, &p, workspace, bytes, NULL), FMLA_ERROR_UNSUPPORTED, names[i]);
    assert_fails(FMLA_ERROR_UNSUPPORTED, FMLA_ERROR_UNSUPPORTED, "but on a GPU must be aligned to 16 bytes");
  }
  assert_int_equal(fake_num_calls(), 0);
  free(workspace);
}

static int open_contexts(void **state) {
  (void)state;
  use_fake_driver();
  big = open_device("cuda:0", NULL);
  small = open_device("cuda:1", NULL);
  return 0;
}

static int close_contexts(void **state) {
  (void)state;
  fmla_close(big);
  fmla_close(small);
  return 0;
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_variants),
      cmocka_unit_test(test_stages),
      cmocka_unit_test(test_registers),
      cmocka_unit_test(test_types),
      cmocka_unit_test(test_named_kernels),
      cmocka_unit_test(test_invariant_variant),
      cmocka_unit_test(test_invariant_workspace),
      cmocka_unit_test(test_normal_workspace),
      cmocka_unit_test(test_workspace_never_shrinks),
      cmocka_unit_test(test_workspace_too_small),
      cmocka_unit_test(test_rules),
      cmocka_unit_test(test_allowed),
      cmocka_unit_test(test_addresses),
  };
  return cmocka_run_group_tests_name("cuda choice", tests, open_contexts, close_contexts);
}
