/*
 * test_merge.c: fmla_merge against the formula in double precision.
 *
 * SPDX-License-Identifier: MIT
 */
#include "numeric.h"
#include "sample.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

enum {
  BATCH = 2,
  TOKENS = 3,
  HEADS = 2,
  ROWS = BATCH * TOKENS * HEADS,
  MAX_PARTS = 100,
  MAX_DIM = 512,
  GAP = 3
};

typedef enum empties { NONE_EMPTY, SOME_EMPTY, ALL_EMPTY } empties;

typedef struct merge_case {
  int32_t num_parts, head_dim_v, part_dtype, out_dtype;
  uint32_t flags;
  float spread; /* the lse of parts lie within +-spread of `center` */
  float center;
  empties empties;
  bool sink, strided, no_lse;
} merge_case;

#define BF16 FMLA_DTYPE_BF16
#define FP16 FMLA_DTYPE_FP16
#define FP32 FMLA_DTYPE_FP32
#define POS  FMLA_EMPTY_LSE_POS_INF

static const merge_case cases[] = {
    {0, 16, FP32, FP32, 0, 1, 0, NONE_EMPTY, false, false, false},
    {0, 16, FP32, BF16, POS, 1, 0, NONE_EMPTY, true, true, false},
    {1, 16, FP32, FP32, 0, 1, 0, NONE_EMPTY, false, false, false},
    {1, 1, BF16, FP32, 0, 1, 0, NONE_EMPTY, true, true, false},
    {1, 16, FP32, FP32, 0, 1, 0, ALL_EMPTY, true, false, false},
    {2, 16, FP32, FP32, 0, 1, 0, NONE_EMPTY, false, true, false},
    {2, 512, FP32, BF16, 0, 1, 0, NONE_EMPTY, true, false, false},
    {2, 16, FP16, FP16, 0, 90, 0, NONE_EMPTY, true, true, true},
    {2, 16, FP32, FP32, POS, 1, 0, SOME_EMPTY, true, true, false},
    {7, 33, BF16, FP32, 0, 5, 0, SOME_EMPTY, true, true, false},
    {7, 33, FP32, FP16, POS, 5, 0, SOME_EMPTY, true, true, false},
    {7, 33, FP32, FP32, POS, 5, 0, ALL_EMPTY, true, true, false},
    {7, 64, FP32, FP32, 0, 500, 0, SOME_EMPTY, true, true, false},    /* most weights vanish */
    {7, 64, FP32, FP32, 0, 3, 5000, SOME_EMPTY, true, true, false},   /* exp(lse) is no float */
    {7, 64, FP32, FP32, 0, 3, -5000, NONE_EMPTY, false, true, false}, /* nor here */
    {100, 512, FP32, FP32, 0, 2, 0, NONE_EMPTY, false, false, false},
    {100, 16, BF16, BF16, 0, 2, 0, SOME_EMPTY, true, true, false},
    {100, 16, FP16, FP32, POS, 20, 0, SOME_EMPTY, true, true, true},
};

/* ---- Tensors of up to four dimensions ahead of a row ----------------------------------------------------- */

enum { PART, BATCHES, TOKEN, HEAD, NUM_DIMS };

typedef struct tensor {
  int64_t strides[NUM_DIMS];
  size_t bytes;
  int32_t dtype, row;
  void *data;
} tensor;

/* `order` lists the dimensions, fastest first; every byte begins as a NaN. */
static tensor new_tensor(const int64_t extents[NUM_DIMS], const int order[NUM_DIMS], int64_t gap, int32_t row,
                         int32_t dtype) {
  tensor t = {.row = row, .dtype = dtype};
  int64_t step = row;
  for (int i = 0; i < NUM_DIMS; i++) {
    step += gap;
    t.strides[order[i]] = step;
    step *= extents[order[i]] > 0 ? extents[order[i]] : 1;
  }
  t.bytes = (size_t)step * fmlai_dtype_bytes(dtype);
  t.data = malloc(t.bytes);
  assert_non_null(t.data);
  memset(t.data, 0xff, t.bytes);
  return t;
}

static void *row_at(const tensor *t, int64_t part, int64_t row) {
  const int64_t batch = row / (TOKENS * HEADS), token = row / HEADS % TOKENS, head = row % HEADS;
  const int64_t index = part * t->strides[PART] + batch * t->strides[BATCHES] + token * t->strides[TOKEN] +
                        head * t->strides[HEAD];
  return (char *)t->data + index * (int64_t)fmlai_dtype_bytes(t->dtype);
}

/* ---- One case ------------------------------------------------------------------------------------------- */

typedef struct merge_step {
  const merge_case *of;
  tensor out_parts, lse_parts, out, lse;
  float sink[HEADS];
  fmla_merge_params params;
} merge_step;

static float empty_lse(const merge_case *c) {
  return c->flags & POS ? INFINITY : -INFINITY;
}

/* One row stays whole where others lose parts, and one row loses all of them. */
static bool is_empty(const merge_case *c, int64_t part, int64_t row) {
  return c->empties == ALL_EMPTY ||
         (c->empties == SOME_EMPTY && row != 5 && (row == 0 || (part + row) % 3 == 0));
}

static void fill(merge_step *s) {
  const merge_case *c = s->of;
  uint32_t noise = 12345;
  for (int64_t part = 0; part < c->num_parts; part++)
    for (int64_t row = 0; row < ROWS; row++) {
      float *lse = row_at(&s->lse_parts, part, row), values[MAX_DIM];
      noise = noise * 1664525u + 1013904223u;
      *lse = c->center + c->spread * ((float)(noise >> 16) / 32768 - 1);
      if (is_empty(c, part, row)) {
        *lse = empty_lse(c);
        continue; /* out stays NaN */
      }
      for (int32_t j = 0; j < c->head_dim_v; j++) {
        noise = noise * 1664525u + 1013904223u;
        values[j] = (float)(noise >> 25) / 16 - 3; /* exact in every type */
      }
      fmlai_store_row(row_at(&s->out_parts, part, row), c->part_dtype, values, 1, c->head_dim_v);
    }
  for (int head = 0; head < HEADS; head++)
    s->sink[head] = c->center + (float)head - 0.5f;
}

static merge_step new_step(const merge_case *c) {
  merge_step s = {.of = c, .params = FMLA_MERGE_PARAMS_INIT};
  const int64_t with_parts[NUM_DIMS] = {c->num_parts, BATCH, TOKENS, HEADS},
                plain[] = {1, BATCH, TOKENS, HEADS};
  static const int packed_out[] = {HEAD, TOKEN, BATCHES, PART}, packed_lse[] = {TOKEN, HEAD, BATCHES, PART};
  static const int other_in[] = {BATCHES, PART, HEAD, TOKEN}, other_out[] = {BATCHES, TOKEN, PART, HEAD};
  const int64_t gap = c->strided ? GAP : 0;
  s.out_parts = new_tensor(with_parts, c->strided ? other_in : packed_out, gap, c->head_dim_v, c->part_dtype);
  s.lse_parts = new_tensor(with_parts, c->strided ? other_in : packed_lse, gap, 1, FP32);
  s.out = new_tensor(plain, c->strided ? other_out : packed_out, gap, c->head_dim_v, c->out_dtype);
  s.lse = new_tensor(plain, c->strided ? other_out : packed_lse, gap, 1, FP32);
  fill(&s);

  fmla_merge_params *p = &s.params;
  p->num_parts = c->num_parts;
  p->batch_size = BATCH;
  p->seqlen_q = TOKENS;
  p->num_q_heads = HEADS;
  p->head_dim_v = c->head_dim_v;
  p->flags = c->flags;
  p->part_dtype = c->part_dtype;
  p->out_dtype = c->out_dtype;
  p->out_parts = s.out_parts.data;
  p->lse_parts = s.lse_parts.data;
  p->sink = NULL;
  p->out = s.out.data;
  p->lse = c->no_lse ? NULL : s.lse.data;
  if (!c->strided)
    return s; /* FMLA_PACKED */
  p->out_parts_stride_part = s.out_parts.strides[PART];
  p->out_parts_stride_batch = s.out_parts.strides[BATCHES];
  p->out_parts_stride_token = s.out_parts.strides[TOKEN];
  p->out_parts_stride_head = s.out_parts.strides[HEAD];
  p->lse_parts_stride_part = s.lse_parts.strides[PART];
  p->lse_parts_stride_batch = s.lse_parts.strides[BATCHES];
  p->lse_parts_stride_token = s.lse_parts.strides[TOKEN];
  p->lse_parts_stride_head = s.lse_parts.strides[HEAD];
  p->out_stride_batch = s.out.strides[BATCHES];
  p->out_stride_token = s.out.strides[TOKEN];
  p->out_stride_head = s.out.strides[HEAD];
  p->lse_stride_batch = s.lse.strides[BATCHES];
  p->lse_stride_token = s.lse.strides[TOKEN];
  p->lse_stride_head = s.lse.strides[HEAD];
  return s;
}

static void free_step(merge_step *s) {
  free(s->out_parts.data);
  free(s->lse_parts.data);
  free(s->out.data);
  free(s->lse.data);
}

/* ---- The truth ------------------------------------------------------------------------------------------ */

/* out = sum of exp(lse_p - lse) out_p, less what the sink takes; returns lse, or `empty_lse`. */
static double true_row(const merge_step *s, int64_t row, double out[MAX_DIM]) {
  const merge_case *c = s->of;
  double largest = -INFINITY, sum = 0;
  for (int64_t part = 0; part < c->num_parts; part++)
    if (!is_empty(c, part, row))
      largest = fmax(largest, (double)*(const float *)row_at(&s->lse_parts, part, row));
  for (int32_t j = 0; j < c->head_dim_v; j++)
    out[j] = 0;
  if (isinf(largest))
    return (double)empty_lse(c);
  for (int64_t part = 0; part < c->num_parts; part++) {
    if (is_empty(c, part, row))
      continue;
    float values[MAX_DIM] = {0};
    const double weight = exp((double)*(const float *)row_at(&s->lse_parts, part, row) - largest);
    fmlai_load_row(values, row_at(&s->out_parts, part, row), c->part_dtype, c->head_dim_v);
    sum += weight;
    for (int32_t j = 0; j < c->head_dim_v; j++)
      out[j] += weight * (double)values[j];
  }
  const double lse = largest + log(sum);
  const double kept = c->sink ? 1 / (1 + exp((double)s->sink[row % HEADS] - lse)) : 1;
  for (int32_t j = 0; j < c->head_dim_v; j++)
    out[j] *= kept / sum;
  return lse;
}

static double out_bound(int32_t dtype) {
  return dtype == BF16 ? 4e-3 : dtype == FP16 ? 1e-3 : 1e-5;
}

static void check_row(const merge_step *s, int64_t row) {
  const merge_case *c = s->of;
  double expected[MAX_DIM] = {0}, error = 0, size = 0;
  float found[MAX_DIM] = {0};
  const double lse = true_row(s, row, expected);
  fmlai_load_row(found, row_at(&s->out, 0, row), c->out_dtype, c->head_dim_v);
  for (int32_t j = 0; j < c->head_dim_v; j++) {
    error += ((double)found[j] - expected[j]) * ((double)found[j] - expected[j]);
    size += expected[j] * expected[j];
  }
  /* The lse's of the parts are rounded to FP32 where they are large, and so is their difference. */
  const double bound = out_bound(c->out_dtype) + 1e-6 * fabs((double)c->center + (double)c->spread);
  const double subnormal = c->out_dtype == FP16 ? 0x1p-25 * sqrt(c->head_dim_v) : 0;
  if (!(sqrt(error) <= bound * sqrt(size) + subnormal))
    fail_msg("case %td, row %d: out is off by %g of %g", c - cases, (int)row, sqrt(error), sqrt(size));
  const double found_lse = (double)*(const float *)row_at(&s->lse, 0, row);
  if (c->no_lse ? !isnan(found_lse) : !(found_lse == lse || fabs(found_lse - lse) <= 1e-5 * fmax(1, fabs(lse))))
    fail_msg("case %td, row %d: lse is %g, not %g", c - cases, (int)row, found_lse, lse);
}

/* The elements that are not a row's are as they were. */
static size_t count_untouched(const tensor *t) {
  size_t untouched = 0;
  for (size_t i = 0; i < t->bytes; i += fmlai_dtype_bytes(t->dtype))
    untouched += memcmp((char *)t->data + i, "\xff\xff\xff\xff", fmlai_dtype_bytes(t->dtype)) == 0;
  return untouched;
}

static void test_cases(void **state) {
  (void)state;
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    merge_step s = new_step(&cases[i]);
    if (cases[i].sink)
      s.params.sink = s.sink;
    assert_int_equal(fmla_merge(sample_context, &s.params, NULL), FMLA_OK);
    for (int64_t row = 0; row < ROWS; row++)
      check_row(&s, row);
    const size_t elements = s.out.bytes / fmlai_dtype_bytes(s.out.dtype);
    assert_int_equal(count_untouched(&s.out), elements - (size_t)ROWS * (size_t)s.out.row);
    assert_int_equal(count_untouched(&s.lse), s.lse.bytes / sizeof(float) - (cases[i].no_lse ? 0 : ROWS));
    free_step(&s);
  }
}

/* A part of NaN does not pass for an empty one. */
static void test_nan_spreads(void **state) {
  (void)state;
  const float out_parts[2] = {1, 2}, lse_parts[2] = {0, NAN};
  float out = 0, lse = 0;
  fmla_merge_params p = FMLA_MERGE_PARAMS_INIT;
  p.num_parts = 2;
  p.batch_size = p.num_q_heads = p.head_dim_v = 1;
  p.out_dtype = FP32;
  p.out_parts = out_parts;
  p.lse_parts = lse_parts;
  p.out = &out;
  p.lse = &lse;
  assert_int_equal(fmla_merge(sample_context, &p, NULL), FMLA_OK);
  assert_true(isnan(out) && isnan(lse));
}

/* Splitting a decode by hand and merging it is the decode: the sink goes to the merge alone. */
static void test_partial_decodes(void **state) {
  (void)state;
  enum { PARTIALS = 3, MAX_ROWS = 64, MAX_ELEMENTS = 1024 };
  static float outs[PARTIALS * MAX_ELEMENTS], lses[PARTIALS * MAX_ROWS], out[MAX_ELEMENTS], lse[MAX_ROWS];
  sample_shape shape = sample_tiny;
  sample whole = sample_new(&shape);
  assert_int_equal(sample_decode(sample_context, &whole), FMLA_OK);
  const size_t elements = whole.out_bytes / sizeof(float), rows = whole.lse_bytes / sizeof(float);
  assert_true(elements <= MAX_ELEMENTS && rows <= MAX_ROWS);
  shape.sink = false;
  for (int part = 0; part < PARTIALS; part++) { /* part i has page i of each sequence */
    sample s = sample_new(&shape);
    for (int32_t i = 0; i < s.params.batch_size; i++) {
      const int32_t left = s.cache_seqlens[i] - part * s.params.page_size;
      s.cache_seqlens[i] = left < 0 ? 0 : left < s.params.page_size ? left : s.params.page_size;
    }
    s.params.block_table_stride = s.params.max_pages_per_seq;
    s.params.max_pages_per_seq = 1;
    s.params.block_table = s.block_table + part;
    s.params.out = outs + (size_t)part * elements;
    s.params.lse = lses + (size_t)part * rows;
    assert_int_equal(sample_decode(sample_context, &s), FMLA_OK);
    sample_free(&s);
  }
  fmla_merge_params p = FMLA_MERGE_PARAMS_INIT;
  p.num_parts = PARTIALS;
  p.batch_size = shape.batch_size;
  p.seqlen_q = shape.max_seqlen_q;
  p.num_q_heads = shape.num_q_heads;
  p.head_dim_v = shape.head_dim_v;
  p.out_dtype = FP32;
  p.out_parts = outs;
  p.lse_parts = lses;
  p.sink = whole.sink;
  p.out = out;
  p.lse = lse;
  assert_int_equal(fmla_merge(sample_context, &p, NULL), FMLA_OK);
  for (size_t i = 0; i < elements; i++)
    assert_true(fabsf(out[i] - ((const float *)whole.out)[i]) <= 1e-5f);
  for (size_t i = 0; i < rows; i++)
    assert_true(fabsf(lse[i] - whole.lse[i]) <= 1e-5f);
  sample_free(&whole);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_cases),
      cmocka_unit_test(test_nan_spreads),
      cmocka_unit_test(test_partial_decodes),
  };
  return cmocka_run_group_tests_name("merge", tests, open_sample_context, close_sample_context);
}
