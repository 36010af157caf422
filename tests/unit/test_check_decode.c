/*
 * test_check_decode.c: every rule on fmla_decode_params, broken once each, and values of the tensors.
 *
 * SPDX-License-Identifier: MIT
 */
#include "refusal.h"
#include "sample.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#define P          fmla_decode_params
#define I32(f, v)  INT32(P, f, v)
#define I64(f, v)  INT64(P, f, v)
#define COUNT(a)   (sizeof(a) / sizeof *(a))
#define TOO_LARGE  (INT64_C(1) << 60)
#define MOVE(f, n) MOVED(P, f, n)

/* ---- Rules on extents, dtypes, flags, strides: every call that takes the struct applies them ------------ */

static const refusal extent_rules[] = {
    {{SIZE(P, struct_size, 0)}, {"fmla_decode_params.struct_size is 0", "sizeof(fmla_decode_params)"}},
    {{SIZE(P, struct_size, sizeof(P) - 1)}, {"fmla_decode_params.struct_size is", "at least"}},
    {{SIZE(P, struct_size, sizeof(P) + 1)}, {"fmla_decode_params.struct_size is", "newer flash_mla.h"}},
    {{I32(batch_size, -1)}, {"batch_size is -1", "at least 0"}},
    {{I32(num_q_heads, 0)}, {"num_q_heads is 0", "1 to 1024"}},
    {{I32(num_q_heads, 1025)}, {"num_q_heads is 1025", "1 to 1024"}},
    {{I32(num_q_heads, INT32_MIN)}, {"num_q_heads is -2147483648", "1 to 1024"}},
    {{I32(num_q_heads, 5)}, {"num_q_heads is 5", "multiple of num_kv_heads", "is 2"}},
    {{I32(num_q_heads, 1)}, {"num_q_heads is 1", "multiple of num_kv_heads", "is 2"}},
    {{I32(num_kv_heads, 0)}, {"num_kv_heads is 0", "1 to 1024"}},
    {{I32(num_kv_heads, -4)}, {"num_kv_heads is -4", "1 to 1024"}},
    {{I32(num_kv_heads, 1025)}, {"num_kv_heads is 1025", "1 to 1024"}},
    {{I32(head_dim_k, 0)}, {"head_dim_k is 0", "1 to 4096"}},
    {{I32(head_dim_k, 4097)}, {"head_dim_k is 4097", "1 to 4096"}},
    {{I32(head_dim_v, 0)}, {"head_dim_v is 0", "1 to head_dim_k", "is 24"}},
    {{I32(head_dim_v, 25)}, {"head_dim_v is 25", "1 to head_dim_k", "is 24"}},
    {{I32(head_dim_rope, 0)}, {"head_dim_rope is 0", "1 to head_dim_k - 1", "is 24"}},
    {{I32(head_dim_rope, 24)}, {"head_dim_rope is 24", "1 to head_dim_k - 1", "is 24"}},
    {{I32(max_seqlen_q, -1)}, {"max_seqlen_q is -1", "at least 0"}},
    {{I32(page_size, 0)}, {"page_size is 0", "at least 1"}},
    {{I64(num_pages, -1)}, {"num_pages is -1", "0 to 2147483647"}},
    {{I64(num_pages, INT64_C(1) << 31)}, {"num_pages is 2147483648", "0 to 2147483647"}},
    {{I32(max_pages_per_seq, -1)}, {"max_pages_per_seq is -1", "at least 0"}},
    {{I32(max_seqlen_k, -1)}, {"max_seqlen_k is -1", "at least 0"}},
    {{I32(max_sms, -1)}, {"max_sms is -1", "at least 0"}},
    {{FLOAT(P, softmax_scale, 0)}, {"softmax_scale is 0", "finite and greater than 0"}},
    {{FLOAT(P, softmax_scale, -0.5f)}, {"softmax_scale is -0.5", "finite and greater than 0"}},
    {{FLOAT(P, softmax_scale, INFINITY)}, {"softmax_scale is inf", "finite and greater than 0"}},
    {{FLOAT(P, softmax_scale, NAN)}, {"softmax_scale is", "nan", "finite and greater than 0"}},
    {{I32(flags, 0x11)}, {"flags has the unknown bits 0x10", "known are 0xf"}},
    {{I32(flags, INT32_MIN)}, {"flags has the unknown bits 0x80000000", "known are 0xf"}},
    {{I32(kv_format, 0)}, {"kv_format is 0", "FMLA_KV_BF16 (1)", "FMLA_KV_FP16 (2)"}},
    {{I32(kv_format, 3)}, {"kv_format is 3", "FMLA_KV_BF16 (1)", "FMLA_KV_FP16 (2)"}},
    {{I32(q_dtype, FMLA_DTYPE_FP16)}, {"q_dtype is 2", "kv_format's elements", "1"}},
    {{I32(q_dtype, FMLA_DTYPE_FP32)}, {"q_dtype is 3", "kv_format's elements", "1"}},
    {{I32(kv_format, FMLA_KV_FP16)}, {"q_dtype is 1", "kv_format's elements", "2"}},
    {{I32(out_dtype, 0)}, {"out_dtype is 0", "FMLA_DTYPE_BF16 (1)", "FMLA_DTYPE_FP32 (3)"}},
    {{I32(out_dtype, 4)}, {"out_dtype is 4", "FMLA_DTYPE_FP16 (2)", "FMLA_DTYPE_FP32 (3)"}},
    {{I64(total_q, 5)}, {"total_q is 5", "0 or batch_size * max_seqlen_q", "is 6"}},
    {{I64(total_q, -1)}, {"total_q is -1", "0 or batch_size * max_seqlen_q", "is 6"}},

#define STRIDE(name)                                                                                           \
  {{I64(name, -2)}, {#name " is -2", "at least 0, or FMLA_PACKED"}},                                           \
      {{I64(name, INT64_MIN)}, {#name " is -9223372036854775808", "FMLA_PACKED"}},                             \
      {{I64(name, TOO_LARGE)}, {#name " is 1152921504606846976", "extent", "more than 2^60 bytes"}}, {         \
    {I64(name, INT64_MAX)}, {                                                                                  \
#name " is 9223372036854775807", "more than 2^60 bytes"                                                  \
    }                                                                                                          \
  }
    STRIDE(q_stride_batch),
    STRIDE(q_stride_token),
    STRIDE(q_stride_head),
    STRIDE(q_rope_stride_batch),
    STRIDE(q_rope_stride_token),
    STRIDE(q_rope_stride_head),
    STRIDE(kv_stride_page),
    STRIDE(kv_stride_token),
    STRIDE(kv_stride_head),
    STRIDE(block_table_stride),
    STRIDE(out_stride_batch),
    STRIDE(out_stride_token),
    STRIDE(out_stride_head),
    STRIDE(lse_stride_batch),
    STRIDE(lse_stride_token),
    STRIDE(lse_stride_head),
    /* Two of four-byte elements: the product is what counts. */
    {{I64(out_stride_token, TOO_LARGE / 8 + 1)},
     {"out_stride_token is 144115188075855873", "its extent of 2", "more than 2^60 bytes"}},

    /* Overlapping outputs: out is [3, 2, 4, 16], lse is [3, 4, 2]. */
    {{I64(out_stride_head, 15)}, {"out_stride_head is 15", "at least 16", "overlap"}},
    {{I64(out_stride_head, 0), I64(out_stride_token, 64), I64(out_stride_batch, 128)},
     {"out_stride_head is 0", "at least 16", "overlap"}},
    {{I64(out_stride_token, 63)}, {"out_stride_token is 63", "at least 64", "overlap"}},
    {{I64(out_stride_batch, 127)}, {"out_stride_batch is 127", "at least 128", "overlap"}},
    {{I64(out_stride_batch, 64)}, {"is 64", "at least 1", "overlap"}},
    {{I64(lse_stride_token, 0), I64(lse_stride_head, 2), I64(lse_stride_batch, 8)},
     {"lse_stride_token is 0", "at least 1", "overlap"}},
    {{I64(lse_stride_head, 1)}, {"is 1", "at least ", "overlap"}},
    {{I64(lse_stride_batch, 7)}, {"lse_stride_batch is 7", "at least 8", "overlap"}},
    /* In another order: heads slowest, then the batch. */
    {{I64(out_stride_token, 16), I64(out_stride_batch, 32), I64(out_stride_head, 95)},
     {"out_stride_head is 95", "at least 96", "overlap"}},
};

/* ---- Rules on pointers: fmla_decode alone applies them -------------------------------------------------- */

static const refusal pointer_rules[] = {
    {{UNSET(P, q)}, {"q is NULL", "has elements"}},
    {{UNSET(P, kv_cache)}, {"kv_cache is NULL", "has elements"}},
    {{UNSET(P, block_table)}, {"block_table is NULL", "has elements"}},
    {{UNSET(P, cache_seqlens)}, {"cache_seqlens is NULL", "has elements"}},
    {{UNSET(P, out)}, {"out is NULL", "has elements"}},
    {{MOVE(q, 1)}, {"q is 0x", "aligned to 2 bytes"}},
    {{MOVE(q_rope, 1)}, {"q_rope is 0x", "aligned to 2 bytes"}},
    {{MOVE(kv_cache, 1)}, {"kv_cache is 0x", "aligned to 2 bytes"}},
    {{MOVE(block_table, 2)}, {"block_table is 0x", "aligned to 4 bytes"}},
    {{MOVE(cache_seqlens, 1)}, {"cache_seqlens is 0x", "aligned to 4 bytes"}},
    {{MOVE(sink, 2)}, {"sink is 0x", "aligned to 4 bytes"}},
    {{MOVE(out, 2)}, {"out is 0x", "aligned to 4 bytes"}},
    {{I32(out_dtype, FMLA_DTYPE_FP16), MOVE(out, 1)}, {"out is 0x", "aligned to 2 bytes"}},
    {{MOVE(lse, 2)}, {"lse is 0x", "aligned to 4 bytes"}},
};

/* ---- Running the tables --------------------------------------------------------------------------------- */

static char workspace[1 << 20];

static void assert_decode_refused(sample *s, const char *const *words) {
  assert_refused(fmla_decode(sample_context, &s->params, workspace, sizeof workspace, NULL),
                 FMLA_ERROR_INVALID_ARGUMENT, words);
  assert_true(sample_outputs_spoilt(s));
}

static void assert_extents_refused(sample *s, const char *const *words) {
  const char *kernel = "untouched", *reason = "untouched";
  size_t bytes = 1;
  assert_refused(fmla_decode_workspace(sample_context, &s->params, &bytes), FMLA_ERROR_INVALID_ARGUMENT, words);
  assert_refused(fmla_decode_kernel(sample_context, &s->params, &kernel, &reason), FMLA_ERROR_INVALID_ARGUMENT,
                 words);
  assert_string_equal(kernel, "untouched");
  assert_string_equal(reason, "untouched");
  assert_decode_refused(s, words);
}

static void test_extent_rules(void **state) {
  (void)state;
  for (size_t i = 0; i < COUNT(extent_rules); i++) {
    sample s = sample_new(&sample_tiny);
    apply_changes(&s.params, &extent_rules[i]);
    assert_extents_refused(&s, extent_rules[i].words);
    sample_free(&s);
  }
}

static void test_pointer_rules(void **state) {
  (void)state;
  for (size_t i = 0; i < COUNT(pointer_rules); i++) {
    sample s = sample_new(&sample_tiny);
    apply_changes(&s.params, &pointer_rules[i]);
    assert_decode_refused(&s, pointer_rules[i].words);
    size_t bytes = 0;
    assert_int_equal(fmla_decode_workspace(sample_context, &s.params, &bytes), FMLA_OK);
    assert_true(bytes > 0);
    sample_free(&s);
  }
}

/* With cu_seqlens_q other rules hold for total_q and the strides. */
static void test_ragged_rules(void **state) {
  (void)state;
  static const refusal rules[] = {
      {{I64(total_q, -1)}, {"total_q is -1", "at least 0"}},
      {{I64(total_q, INT64_MAX)}, {"is 128", "extent of 9223372036854775807", "more than 2^60 bytes"}},
      {{I64(out_stride_token, 0)}, {"out_stride_token is 0", "overlap"}},
      {{I64(lse_stride_head, 3)}, {"lse_stride_head is 3", "at least 4", "overlap"}},
  };
  sample_shape shape = sample_tiny;
  shape.ragged = true;
  shape.head_dim_rope = 0;
  shape.head_dim_k = 32;
  for (size_t i = 0; i < COUNT(rules); i++) {
    sample s = sample_new(&shape);
    apply_changes(&s.params, &rules[i]);
    assert_extents_refused(&s, rules[i].words);
    sample_free(&s);
  }
  sample s = sample_new(&shape);
  static const refusal misaligned = {{MOVE(cu_seqlens_q, 2)}, {"cu_seqlens_q is 0x", "aligned to 4 bytes"}};
  apply_changes(&s.params, &misaligned);
  assert_decode_refused(&s, misaligned.words);
  sample_free(&s);
}

/* ---- Values of the tensors ------------------------------------------------------------------------------ */

typedef enum tensor { LENGTHS, TABLE, STARTS } tensor;

static const struct {
  tensor tensor;
  int index;
  int32_t value;
  const char *words[3];
} value_rules[] = {
    /* Lengths 11, 8, 4 in three pages of four tokens: the table holds twelve. */
    {LENGTHS, 0, -1, {"cache_seqlens[0] is -1", "0 to 12", "max_pages_per_seq * page_size"}},
    {LENGTHS, 2, 13, {"cache_seqlens[2] is 13", "0 to 12"}},
    {LENGTHS, 1, INT32_MAX, {"cache_seqlens[1] is 2147483647", "0 to 12"}},
    {LENGTHS, 1, INT32_MIN, {"cache_seqlens[1] is -2147483648", "0 to 12"}},
    {TABLE, 0, -1, {"block_table[0][0] is -1", "0 to num_pages - 1", "is 9"}},
    {TABLE, 2, 9, {"block_table[0][2] is 9", "0 to num_pages - 1", "is 9"}},
    {TABLE, 6, INT32_MIN, {"block_table[2][0] is -2147483648", "0 to num_pages - 1"}},
    {TABLE, 4, INT32_MAX, {"block_table[1][1] is 2147483647", "0 to num_pages - 1"}},
    /* Two, one and no query tokens: cu_seqlens_q is 0, 2, 3, 3 and total_q is 4. */
    {STARTS, 0, 1, {"cu_seqlens_q[0] is 1", "must be 0"}},
    {STARTS, 0, -1, {"cu_seqlens_q[0] is -1", "must be 0"}},
    {STARTS, 1, -1, {"cu_seqlens_q[1] is -1", "at least the entry before, 0"}},
    {STARTS, 3, 2, {"cu_seqlens_q[3] is 2", "at least the entry before, 3"}},
    {STARTS, 2, INT32_MIN, {"cu_seqlens_q[2] is -2147483648", "at least the entry before, 2"}},
    {STARTS, 1, 3, {"gives sequence 0 3 query tokens", "max_seqlen_q is 2"}},
    {STARTS, 3, INT32_MAX, {"gives sequence 2 2147483644 query tokens", "max_seqlen_q is 2"}},
    {STARTS, 3, 5, {"cu_seqlens_q[3] is 5", "at most total_q", "is 4"}},
};

static void test_value_rules(void **state) {
  (void)state;
  sample_shape shape = sample_tiny;
  shape.ragged = true;
  for (size_t i = 0; i < COUNT(value_rules); i++) {
    sample s = sample_new(&shape);
    int32_t *tensors[] = {s.cache_seqlens, s.block_table, s.cu_seqlens_q};
    tensors[value_rules[i].tensor][value_rules[i].index] = value_rules[i].value;
    assert_decode_refused(&s, value_rules[i].words);
    sample_free(&s);
  }
}

static void test_max_seqlen_k_bounds_lengths(void **state) {
  (void)state;
  sample s = sample_new(&sample_tiny);
  s.params.max_seqlen_k = 10;
  assert_decode_refused(&s, (const char *[]){"cache_seqlens[0] is 11", "0 to 10", "max_seqlen_k"});
  s.params.max_seqlen_k = 1000; /* more than the table holds bounds nothing */
  s.cache_seqlens[0] = 13;
  assert_decode_refused(&s, (const char *[]){"cache_seqlens[0] is 13", "0 to 12", NULL});
  sample_free(&s);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_extent_rules),
      cmocka_unit_test(test_pointer_rules),
      cmocka_unit_test(test_ragged_rules),
      cmocka_unit_test(test_value_rules),
      cmocka_unit_test(test_max_seqlen_k_bounds_lengths),
  };
  return cmocka_run_group_tests_name("check_decode", tests, open_sample_context, close_sample_context);
}
