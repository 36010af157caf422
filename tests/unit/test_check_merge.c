/*
 * test_check_merge.c: every rule on fmla_merge_params, broken once each.
 *
 * SPDX-License-Identifier: MIT
 */
#include "refusal.h"
#include "sample.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>

#include <cmocka.h>

#define P         fmla_merge_params
#define I32(f, v) INT32(P, f, v)
#define I64(f, v) INT64(P, f, v)
#define COUNT(a)  (sizeof(a) / sizeof *(a))

static const refusal rules[] = {
    {{SIZE(P, struct_size, 0)}, {"fmla_merge_params.struct_size is 0", "sizeof(fmla_merge_params)"}},
    {{SIZE(P, struct_size, sizeof(P) - 1)}, {"fmla_merge_params.struct_size is", "at least"}},
    {{SIZE(P, struct_size, sizeof(P) + 8)}, {"fmla_merge_params.struct_size is", "newer flash_mla.h"}},
    {{I32(num_parts, -1)}, {"num_parts is -1", "at least 0"}},
    {{I32(batch_size, -1)}, {"batch_size is -1", "at least 0"}},
    {{I32(seqlen_q, -1)}, {"seqlen_q is -1", "at least 0"}},
    {{I32(num_q_heads, 0)}, {"num_q_heads is 0", "1 to 1024"}},
    {{I32(num_q_heads, 1025)}, {"num_q_heads is 1025", "1 to 1024"}},
    {{I32(head_dim_v, 0)}, {"head_dim_v is 0", "1 to 4096"}},
    {{I32(head_dim_v, 4097)}, {"head_dim_v is 4097", "1 to 4096"}},
    {{I32(flags, FMLA_CAUSAL)}, {"flags has the unknown bits 0x1", "known are 0x4"}},
    {{I32(flags, FMLA_EMPTY_LSE_POS_INF | 0x40)}, {"flags has the unknown bits 0x40", "known are 0x4"}},
    {{I32(part_dtype, 0)}, {"part_dtype is 0", "FMLA_DTYPE_BF16 (1)", "FMLA_DTYPE_FP32 (3)"}},
    {{I32(part_dtype, 4)}, {"part_dtype is 4", "FMLA_DTYPE_FP16 (2)", "FMLA_DTYPE_FP32 (3)"}},
    {{I32(out_dtype, 0)}, {"out_dtype is 0", "FMLA_DTYPE_BF16 (1)", "FMLA_DTYPE_FP32 (3)"}},
    {{I32(out_dtype, -3)}, {"out_dtype is -3", "FMLA_DTYPE_FP16 (2)", "FMLA_DTYPE_FP32 (3)"}},

#define STRIDE(name)                                                                                           \
  {{I64(name, -2)}, {#name " is -2", "at least 0, or FMLA_PACKED"}}, {                                         \
    {I64(name, INT64_MAX)}, {                                                                                  \
#name " is 9223372036854775807", "extent", "more than 2^60 bytes"                                        \
    }                                                                                                          \
  }
    STRIDE(out_parts_stride_part),
    STRIDE(out_parts_stride_batch),
    STRIDE(out_parts_stride_token),
    STRIDE(out_parts_stride_head),
    STRIDE(lse_parts_stride_part),
    STRIDE(lse_parts_stride_batch),
    STRIDE(lse_parts_stride_token),
    STRIDE(lse_parts_stride_head),
    STRIDE(out_stride_batch),
    STRIDE(out_stride_token),
    STRIDE(out_stride_head),
    STRIDE(lse_stride_batch),
    STRIDE(lse_stride_token),
    STRIDE(lse_stride_head),

    /* Overlapping outputs: out is [2, 3, 2, 8], lse is [2, 2, 3]. */
    {{I64(out_stride_head, 7)}, {"out_stride_head is 7", "at least 8", "overlap"}},
    {{I64(out_stride_token, 15)}, {"out_stride_token is 15", "at least 16", "overlap"}},
    {{I64(out_stride_batch, 47)}, {"out_stride_batch is 47", "at least 48", "overlap"}},
    {{I64(lse_stride_token, 0), I64(lse_stride_head, 3), I64(lse_stride_batch, 6)},
     {"lse_stride_token is 0", "at least 1", "overlap"}},
    {{I64(lse_stride_head, 2)}, {"lse_stride_head is 2", "at least 3", "overlap"}},
    {{I64(lse_stride_batch, 5)}, {"lse_stride_batch is 5", "at least 6", "overlap"}},

    {{UNSET(P, out_parts)}, {"out_parts is NULL", "has elements"}},
    {{UNSET(P, lse_parts)}, {"lse_parts is NULL", "has elements"}},
    {{UNSET(P, out)}, {"out is NULL", "has elements"}},
    {{MOVED(P, out_parts, 2)}, {"out_parts is 0x", "aligned to 4 bytes"}},
    {{I32(part_dtype, FMLA_DTYPE_BF16), MOVED(P, out_parts, 1)}, {"out_parts is 0x", "aligned to 2 bytes"}},
    {{MOVED(P, lse_parts, 2)}, {"lse_parts is 0x", "aligned to 4 bytes"}},
    {{MOVED(P, sink, 1)}, {"sink is 0x", "aligned to 4 bytes"}},
    {{MOVED(P, out, 1)}, {"out is 0x", "aligned to 2 bytes"}},
    {{I32(out_dtype, FMLA_DTYPE_FP32), MOVED(P, out, 2)}, {"out is 0x", "aligned to 4 bytes"}},
    {{MOVED(P, lse, 2)}, {"lse is 0x", "aligned to 4 bytes"}},
};

enum { PARTS = 3, BATCH = 2, TOKENS = 3, HEADS = 2, DIM = 8, ROWS = BATCH * TOKENS * HEADS };

typedef struct merge_sample {
  float out_parts[PARTS * ROWS * DIM], lse_parts[PARTS * ROWS], sink[HEADS];
  float out[ROWS * DIM], lse[ROWS]; /* out is BF16 unless a row says FP32 */
} merge_sample;

static fmla_merge_params params_of(merge_sample *s) {
  fmla_merge_params p = FMLA_MERGE_PARAMS_INIT;
  p.num_parts = PARTS;
  p.batch_size = BATCH;
  p.seqlen_q = TOKENS;
  p.num_q_heads = HEADS;
  p.head_dim_v = DIM;
  p.out_parts = s->out_parts;
  p.lse_parts = s->lse_parts;
  p.sink = s->sink;
  p.out = s->out;
  p.lse = s->lse;
  return p;
}

static void test_rules(void **state) {
  (void)state;
  static merge_sample s, before;
  memset(s.out, 0xa5, sizeof s.out);
  memset(s.lse, 0xa5, sizeof s.lse);
  before = s;
  for (size_t i = 0; i < COUNT(rules); i++) {
    fmla_merge_params p = params_of(&s);
    apply_changes(&p, &rules[i]);
    assert_refused(fmla_merge(sample_context, &p, NULL), FMLA_ERROR_INVALID_ARGUMENT, rules[i].words);
    assert_memory_equal(&s, &before, sizeof s);
  }
  fmla_merge_params p = params_of(&s);
  assert_refused(fmla_merge(sample_context, &p, s.sink), FMLA_ERROR_INVALID_ARGUMENT,
                 (const char *[]){"stream is 0x", "must be NULL", NULL});
  assert_memory_equal(&s, &before, sizeof s);
  assert_int_equal(fmla_merge(sample_context, &p, NULL), FMLA_OK);
  assert_memory_not_equal(&s, &before, sizeof s);
}

/* What has no elements needs no pointer, and lse never needs one. */
static void test_without_elements(void **state) {
  (void)state;
  static merge_sample s;
  fmla_merge_params p = params_of(&s);
  p.sink = NULL;
  p.lse = NULL;
  assert_int_equal(fmla_merge(sample_context, &p, NULL), FMLA_OK);
  p.num_parts = 0;
  p.out_parts = NULL;
  p.lse_parts = NULL;
  assert_int_equal(fmla_merge(sample_context, &p, NULL), FMLA_OK);
  p.num_parts = PARTS;
  p.out = NULL;
  p.seqlen_q = 0;
  assert_int_equal(fmla_merge(sample_context, &p, NULL), FMLA_OK);
  p.seqlen_q = TOKENS;
  p.batch_size = 0;
  assert_int_equal(fmla_merge(sample_context, &p, NULL), FMLA_OK);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_rules),
      cmocka_unit_test(test_without_elements),
  };
  return cmocka_run_group_tests_name("check_merge", tests, open_sample_context, close_sample_context);
}
