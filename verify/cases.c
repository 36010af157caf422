/*
 * cases.c: the table of extremes, and the generator of random cases.
 *
 * SPDX-License-Identifier: MIT
 */
#include "cases.h"

#include "random.h"

#include <math.h>
#include <stdio.h>

#define COUNT_OF(array) ((int32_t)(sizeof(array) / sizeof(array)[0]))

/* ---- Extremes ---------------------------------------------------------------------------------- */

/* Short names for the table. */
#define NOTHING  -1 /* an extent of 0, which is spelt otherwise because 0 asks for the default */
#define EDGES    .lengths = VERIFY_LENGTHS_EDGES
#define MIXED    .lengths = VERIFY_LENGTHS_RANDOM
#define ONE_HUGE .lengths = VERIFY_LENGTHS_ONE_HUGE
#define NEEDLE   .data = VERIFY_DATA_NEEDLE
#define GAPS     .strides = VERIFY_STRIDES_GAPS
#define FP16     .dtype = FMLA_DTYPE_FP16
#define OUT_FP16 .out_dtype = FMLA_DTYPE_FP16
#define OUT_FP32 .out_dtype = FMLA_DTYPE_FP32
#define CAUSAL   .flags = FMLA_CAUSAL

/* Only what is special about a case is said; see cases.h for the rest. */
/* clang-format off */
static const verify_case extremes[] = {
    {.name = "one token", .batch_size = 1, .longest = 1},
    {.name = "one token, one head", .batch_size = 1, .num_q_heads = 1, .longest = 1, OUT_FP32},
    {.name = "no sequence", .batch_size = 0, .longest = 0},
    {.name = "no token anywhere", .batch_size = 3, .longest = 0},
    {.name = "no token anywhere, empty lse +inf", .batch_size = 3, .longest = 0, .flags = FMLA_EMPTY_LSE_POS_INF},
    {.name = "no token anywhere, sink", .batch_size = 2, .longest = 0, .sink = VERIFY_SINK_EXTREME, OUT_FP32},
    {.name = "no query at all", .batch_size = 3, .max_seqlen_q = NOTHING, .longest = 20},
    {.name = "no query in any sequence", .batch_size = 3, .max_seqlen_q = NOTHING, .longest = 20, .varlen = true},
    {.name = "no sequence, rows behind", .batch_size = 0, .longest = 0, .varlen = true, .no_lse = true},

    {.name = "lengths at page edges", .batch_size = 7, .longest = 150, EDGES},
    {.name = "lengths at page edges, page 1", .batch_size = 9, .page_size = 1, .longest = 70, EDGES},
    {.name = "lengths at page edges, page 3", .batch_size = 9, .page_size = 3, .longest = 70, EDGES, FP16},
    {.name = "lengths at page edges, page 16", .batch_size = 9, .page_size = 16, .longest = 66, EDGES, GAPS},
    {.name = "lengths at page edges, page 100", .batch_size = 9, .page_size = 100, .longest = 201, EDGES},
    {.name = "lengths at page edges, page 256", .batch_size = 9, .page_size = 256, .longest = 513, EDGES, .num_q_heads = 4},
    {.name = "lengths at split edges", .batch_size = 16, .num_q_heads = 3, .longest = 600, EDGES},
    {.name = "lengths at split edges, batch invariant", .batch_size = 16, .num_q_heads = 3, .longest = 600, EDGES, .flags = FMLA_BATCH_INVARIANT},
    {.name = "page larger than any sequence", .batch_size = 3, .page_size = 1000, .longest = 90, MIXED},

    {.name = "one huge, many tiny", .batch_size = 65, .num_q_heads = 2, .longest = 5000, ONE_HUGE},
    {.name = "one huge, many tiny, batch invariant", .batch_size = 65, .num_q_heads = 2, .longest = 5000, ONE_HUGE, .flags = FMLA_BATCH_INVARIANT},
    {.name = "much work, batch invariant", .batch_size = 3, .num_q_heads = 64, .num_kv_heads = 64, .head_dim_k = 16, .longest = 700, .flags = FMLA_BATCH_INVARIANT},
    {.name = "many tiny", .batch_size = 300, .num_q_heads = 4, .longest = 3, MIXED, .shared_pages = true},
    {.name = "long", .batch_size = 1, .num_q_heads = 2, .longest = 20000, OUT_FP32},
    {.name = "long, needles", .batch_size = 1, .num_q_heads = 4, .head_dim_k = 96, .head_dim_v = 64, .head_dim_rope = 32, .max_seqlen_q = 8, .longest = 20011, NEEDLE, CAUSAL},
    {.name = "long, needles, batch invariant", .batch_size = 2, .num_q_heads = 4, .head_dim_k = 64, .max_seqlen_q = 4, .longest = 9001, NEEDLE, .flags = FMLA_CAUSAL | FMLA_BATCH_INVARIANT},
    {.name = "long, constant", .batch_size = 1, .num_q_heads = 1, .longest = 10000, .data = VERIFY_DATA_CONSTANT, OUT_FP32},

    {.name = "128 heads", .batch_size = 2, .num_q_heads = 128, .longest = 100, MIXED},
    {.name = "128 heads, needles", .batch_size = 1, .num_q_heads = 128, .longest = 300, NEEDLE, OUT_FP32},
    {.name = "128 heads, each its own KV head", .batch_size = 2, .num_q_heads = 128, .num_kv_heads = 128, .head_dim_k = 24, .longest = 40, MIXED},
    {.name = "1024 heads", .batch_size = 1, .num_q_heads = 1024, .head_dim_k = 40, .head_dim_v = 32, .longest = 90, NEEDLE},
    {.name = "17 heads", .batch_size = 3, .num_q_heads = 17, .longest = 130, MIXED, NEEDLE},
    {.name = "two KV heads", .batch_size = 2, .num_q_heads = 6, .num_kv_heads = 2, .longest = 200, NEEDLE, CAUSAL, .max_seqlen_q = 3},
    {.name = "eight KV heads, FP16", .batch_size = 3, .num_q_heads = 8, .num_kv_heads = 8, .head_dim_k = 128, .head_dim_v = 128, .page_size = 16, .longest = 300, MIXED, FP16, OUT_FP16},

    {.name = "head dims 1/1", .batch_size = 3, .num_q_heads = 5, .head_dim_k = 1, .longest = 200, MIXED, OUT_FP32},
    {.name = "head dims 2/1, rope 1", .batch_size = 2, .num_q_heads = 3, .head_dim_k = 2, .head_dim_v = 1, .head_dim_rope = 1, .longest = 90},
    {.name = "head dims 33/17", .batch_size = 4, .num_q_heads = 7, .head_dim_k = 33, .head_dim_v = 17, .page_size = 3, .longest = 300, NEEDLE, GAPS},
    {.name = "head dims 33/17, rope 16", .batch_size = 4, .num_q_heads = 7, .head_dim_k = 33, .head_dim_v = 17, .head_dim_rope = 16, .longest = 300, NEEDLE, MIXED, FP16},
    {.name = "head dims 320/256", .batch_size = 2, .head_dim_k = 320, .head_dim_v = 256, .head_dim_rope = 64, .longest = 300, NEEDLE},
    {.name = "head dims 512/512", .batch_size = 2, .head_dim_k = 512, .longest = 257, MIXED, .sink = VERIFY_SINK_NEAR},
    {.name = "head dims 576/576", .batch_size = 2, .head_dim_v = 576, .longest = 300, MIXED, FP16, OUT_FP32},
    {.name = "head dims 576/1", .batch_size = 2, .head_dim_v = 1, .longest = 300, MIXED, OUT_FP32},
    {.name = "head dims 4096/4096", .batch_size = 1, .num_q_heads = 2, .head_dim_k = 4096, .head_dim_v = 4096, .longest = 300},

    {.name = "FP16 in and out", .batch_size = 3, .longest = 200, MIXED, FP16, OUT_FP16, .head_dim_rope = 64},
    {.name = "BF16 in, FP32 out", .batch_size = 3, .longest = 200, MIXED, OUT_FP32, .head_dim_rope = 64},
    {.name = "BF16 in, FP16 out, no lse", .batch_size = 3, .longest = 200, MIXED, OUT_FP16, .no_lse = true},
    {.name = "FP16 in, BF16 out", .batch_size = 3, .longest = 200, MIXED, FP16, GAPS},

    {.name = "causal, two queries", .batch_size = 6, .max_seqlen_q = 2, .longest = 130, EDGES, CAUSAL, NEEDLE},
    {.name = "causal, more queries than keys", .batch_size = 4, .max_seqlen_q = 9, .num_q_heads = 8, .longest = 5, MIXED, CAUSAL, NEEDLE, OUT_FP32},
    {.name = "causal, more queries than keys, empty lse +inf", .batch_size = 4, .max_seqlen_q = 9, .num_q_heads = 8, .longest = 5, MIXED, .flags = FMLA_CAUSAL | FMLA_EMPTY_LSE_POS_INF, .sink = VERIFY_SINK_NEAR},
    {.name = "causal, line in the next to last page", .batch_size = 2, .max_seqlen_q = 5, .page_size = 3, .num_q_heads = 8, .longest = 301, CAUSAL, NEEDLE},
    {.name = "causal, line across a split", .batch_size = 3, .max_seqlen_q = 6, .num_q_heads = 4, .longest = 1027, CAUSAL, NEEDLE, .lengths = VERIFY_LENGTHS_RANDOM},
    {.name = "causal, 70 queries", .batch_size = 1, .max_seqlen_q = 70, .num_q_heads = 2, .longest = 190, CAUSAL, NEEDLE},
    {.name = "not causal, three queries", .batch_size = 2, .max_seqlen_q = 3, .longest = 260, NEEDLE, .head_dim_rope = 64},

    {.name = "varlen", .batch_size = 8, .max_seqlen_q = 3, .num_q_heads = 8, .longest = 150, MIXED, .varlen = true, NEEDLE},
    {.name = "varlen, causal, gaps", .batch_size = 8, .max_seqlen_q = 4, .num_q_heads = 8, .longest = 300, MIXED, .varlen = true, CAUSAL, GAPS, .head_dim_rope = 64},
    {.name = "varlen, batch invariant", .batch_size = 6, .max_seqlen_q = 3, .num_q_heads = 4, .longest = 900, MIXED, .varlen = true, .flags = FMLA_CAUSAL | FMLA_BATCH_INVARIANT | FMLA_EMPTY_LSE_POS_INF, NEEDLE},

    {.name = "sinks near the lse", .batch_size = 3, .longest = 300, MIXED, .sink = VERIFY_SINK_NEAR, OUT_FP32},
    {.name = "sinks near the lse, split", .batch_size = 1, .num_q_heads = 3, .longest = 3000, .sink = VERIFY_SINK_NEAR, OUT_FP32},
    {.name = "sinks from -inf to huge", .batch_size = 3, .num_q_heads = 14, .longest = 300, MIXED, .sink = VERIFY_SINK_EXTREME, OUT_FP32},

    {.name = "gaps everywhere, rope apart", .batch_size = 3, .max_seqlen_q = 2, .num_q_heads = 6, .num_kv_heads = 2, .head_dim_rope = 64, .longest = 200, MIXED, GAPS, .sink = VERIFY_SINK_NEAR},
    {.name = "strides spelt", .batch_size = 3, .max_seqlen_q = 2, .longest = 100, MIXED, .strides = VERIFY_STRIDES_SPELT, .head_dim_rope = 64},
    {.name = "gaps behind rows, the rest packed", .batch_size = 3, .max_seqlen_q = 2, .num_q_heads = 6, .num_kv_heads = 2, .longest = 100, MIXED, .strides = VERIFY_STRIDES_MIXED, .head_dim_rope = 64},
    {.name = "one query and one table row for all", .batch_size = 5, .num_q_heads = 4, .num_kv_heads = 2, .longest = 400, MIXED, .strides = VERIFY_STRIDES_REPEAT},
    {.name = "offsets beyond 32 bits", .batch_size = 5, .num_q_heads = 2, .page_size = 16, .longest = 16, .strides = VERIFY_STRIDES_FAR},
    {.name = "shared pages", .batch_size = 6, .num_q_heads = 8, .longest = 300, MIXED, .shared_pages = true, .page_size = 16},

    {.name = "scores of +-900", .batch_size = 3, .longest = 300, MIXED, .data = VERIFY_DATA_LARGE},
    {.name = "scores of +-900, FP32 out", .batch_size = 40, .longest = 8, MIXED, .data = VERIFY_DATA_LARGE, OUT_FP32},
    {.name = "scores of +-900, split", .batch_size = 2, .num_q_heads = 2, .longest = 3000, .data = VERIFY_DATA_LARGE, OUT_FP32},
    {.name = "scores of +-8, split", .batch_size = 2, .num_q_heads = 2, .longest = 3000, .data = VERIFY_DATA_PEAKED, OUT_FP32},
    {.name = "scale 3", .batch_size = 2, .longest = 300, .softmax_scale = 3, OUT_FP32},
    {.name = "scale 1e-6", .batch_size = 2, .longest = 300, .softmax_scale = 1e-6f, OUT_FP32},
    {.name = "constant", .batch_size = 3, .longest = 300, MIXED, .data = VERIFY_DATA_CONSTANT},
    {.name = "tiny FP16", .batch_size = 4, .longest = 200, MIXED, .data = VERIFY_DATA_TINY, FP16, OUT_FP32},
    {.name = "tiny BF16", .batch_size = 4, .longest = 200, MIXED, .data = VERIFY_DATA_TINY, OUT_FP32},
};
/* clang-format on */

static int32_t or_default(int32_t value, int32_t fallback) {
  return value == NOTHING ? 0 : value != 0 ? value : fallback;
}

static verify_case with_defaults(verify_case c) {
  c.num_q_heads = or_default(c.num_q_heads, 16);
  c.num_kv_heads = or_default(c.num_kv_heads, 1);
  c.head_dim_k = or_default(c.head_dim_k, 576);
  c.head_dim_v = or_default(c.head_dim_v, c.head_dim_k < 512 ? c.head_dim_k : 512);
  c.max_seqlen_q = or_default(c.max_seqlen_q, 1);
  c.page_size = or_default(c.page_size, 64);
  c.stride_multiple = or_default(c.stride_multiple, 1);
  c.dtype = or_default(c.dtype, FMLA_DTYPE_BF16);
  c.out_dtype = or_default(c.out_dtype, FMLA_DTYPE_BF16);
  if (c.softmax_scale == 0)
    c.softmax_scale = 1 / sqrtf((float)c.head_dim_k);
  return c;
}

int verify_num_extreme_cases(void) {
  return COUNT_OF(extremes);
}

verify_case verify_extreme_case(int index) {
  verify_case c = with_defaults(extremes[index]);
  c.seed = (uint64_t)index;
  return c;
}

bool verify_is_quick_case(const verify_case *c) {
  const int64_t most_sequences = 20, most_multiplications = 10000000;
  const int64_t rows = (int64_t)c->batch_size * c->max_seqlen_q * c->num_q_heads;
  return c->batch_size <= most_sequences && c->strides != VERIFY_STRIDES_FAR &&
         rows * c->longest * (c->head_dim_k + c->head_dim_v) <= most_multiplications;
}

/* ---- Random cases ------------------------------------------------------------------------------ */

static int32_t pick(verify_random *random, const int32_t *values, int32_t count) {
  return values[verify_random_int(random, 0, count - 1)];
}
#define PICK(random, ...)                                                                                      \
  pick(random, (const int32_t[]){__VA_ARGS__}, COUNT_OF(((const int32_t[]){__VA_ARGS__})))

static void draw_heads(verify_case *c, verify_random *random) {
  c->num_kv_heads = PICK(random, 1, 1, 1, 1, 1, 2, 3, 8);
  c->num_q_heads = c->num_kv_heads * PICK(random, 1, 2, 3, 4, 5, 8, 16, 16, 17, 32, 64, 128);
}

static void draw_head_dims(verify_case *c, verify_random *random) {
  static const int32_t dims[][2] = {{576, 512}, {576, 512}, {576, 512}, {576, 512}, {512, 512},
                                    {320, 256}, {576, 576}, {192, 128}, {33, 17}};
  const int32_t *pair = dims[verify_random_int(random, 0, COUNT_OF(dims) - 1)];
  c->head_dim_k = pair[0];
  c->head_dim_v = pair[1];
  if (verify_random_once_in(random, 4)) {
    c->head_dim_k = verify_random_int(random, 1, 640);
    c->head_dim_v = verify_random_int(random, 1, c->head_dim_k);
  }
  if (c->head_dim_k > 1 && verify_random_once_in(random, 2))
    c->head_dim_rope = verify_random_once_in(random, 2) && c->head_dim_k > 64
                           ? 64
                           : verify_random_int(random, 1, c->head_dim_k - 1);
}

/* The longest sequence that keeps the case cheap. */
static int32_t affordable_length(const verify_case *c) {
  const int64_t multiplications = 30000000, elements = 3000000, most = 8192;
  int64_t sequences = c->lengths == VERIFY_LENGTHS_ONE_HUGE ? 1 : c->batch_size;
  int64_t work_per_key = (int64_t)c->num_q_heads * c->max_seqlen_q * (c->head_dim_k + c->head_dim_v);
  int64_t length = multiplications / (sequences * work_per_key);
  int64_t storable = elements / (sequences * c->num_kv_heads * c->head_dim_k);
  length = length < storable ? length : storable;
  return (int32_t)(length < most ? length : most);
}

static uint32_t draw_flags(verify_random *random) {
  return (verify_random_once_in(random, 2) ? FMLA_CAUSAL : 0) |
         (verify_random_once_in(random, 4) ? FMLA_BATCH_INVARIANT : 0) |
         (verify_random_once_in(random, 4) ? FMLA_EMPTY_LSE_POS_INF : 0);
}

verify_case verify_random_case(uint64_t seed) {
  verify_random random = {seed * 0x632be59bd9b4e019u + 1};
  verify_case c = {.seed = seed};
  c.batch_size = PICK(&random, 1, 1, 2, 3, 4, 5, 8, 17, 40);
  draw_heads(&c, &random);
  draw_head_dims(&c, &random);
  c.max_seqlen_q = PICK(&random, 1, 1, 1, 2, 3, 4, 7);
  c.page_size = verify_random_once_in(&random, 5) ? verify_random_int(&random, 1, 130)
                                                  : PICK(&random, 1, 3, 16, 32, 64, 64, 100, 128, 256);
  c.lengths = (verify_lengths)verify_random_int(&random, 0, VERIFY_LENGTHS_COUNT - 1);
  c.longest = verify_random_int(&random, 0, affordable_length(&c));
  c.data = (verify_data)verify_random_int(&random, 0, VERIFY_DATA_COUNT - 1);
  if (verify_random_once_in(&random, 3))
    c.data = VERIFY_DATA_NEEDLE;
  c.strides = (verify_strides)verify_random_int(&random, 0, VERIFY_STRIDES_REPEAT);
  c.sink = (verify_sink)verify_random_int(&random, 0, VERIFY_SINK_COUNT - 1);
  c.flags = draw_flags(&random);
  c.dtype = PICK(&random, FMLA_DTYPE_BF16, FMLA_DTYPE_BF16, FMLA_DTYPE_FP16);
  c.out_dtype = PICK(&random, FMLA_DTYPE_BF16, FMLA_DTYPE_FP16, FMLA_DTYPE_FP32);
  c.varlen = verify_random_once_in(&random, 4);
  c.shared_pages = verify_random_once_in(&random, 4);
  c.no_lse = verify_random_once_in(&random, 10);
  if (verify_random_once_in(&random, 4))
    c.softmax_scale = 0.0078125f * (float)verify_random_int(&random, 1, 32);
  return with_defaults(c);
}

/* ---- In words ---------------------------------------------------------------------------------- */

static const char *dtype_name(int32_t dtype) {
  return dtype == FMLA_DTYPE_BF16 ? "bf16" : dtype == FMLA_DTYPE_FP16 ? "fp16" : "fp32";
}

char *verify_describe_case(const verify_case *c, char *text, size_t bytes) {
  static const char *const lengths[] = {"full", "random", "edges", "one-huge"};
  static const char *const data[] = {"normal", "constant", "peaked", "large", "tiny", "needle"};
  static const char *const strides[] = {"packed", "spelt", "gaps", "mixed", "repeat", "far"};
  static const char *const sinks[] = {"none", "near", "extreme"};
  snprintf(text, bytes,
           "batch %d, heads %d/%d, dims %d/%d, rope %d, queries %d%s, page %d%s, longest %d (%s), %s to %s%s, "
           "scale %g, "
           "data %s, strides %s, sink %s%s%s%s",
           (int)c->batch_size, (int)c->num_q_heads, (int)c->num_kv_heads, (int)c->head_dim_k,
           (int)c->head_dim_v, (int)c->head_dim_rope, (int)c->max_seqlen_q, c->varlen ? " (varlen)" : "",
           (int)c->page_size, c->shared_pages ? " (shared)" : "", (int)c->longest, lengths[c->lengths],
           dtype_name(c->dtype), dtype_name(c->out_dtype), c->no_lse ? " without lse" : "",
           (double)c->softmax_scale, data[c->data], strides[c->strides], sinks[c->sink],
           (c->flags & FMLA_CAUSAL) != 0 ? ", causal" : "",
           (c->flags & FMLA_BATCH_INVARIANT) != 0 ? ", batch-invariant" : "",
           (c->flags & FMLA_EMPTY_LSE_POS_INF) != 0 ? ", empty lse +inf" : "");
  return text;
}
