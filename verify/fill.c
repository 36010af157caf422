/*
 * fill.c: draws the values of a case.
 *
 * SPDX-License-Identifier: MIT
 */
#include "fill.h"

#include "number.h"
#include "shape.h"

#include <math.h>

/* What one case draws its values by. */
typedef struct fill {
  verify_data data;
  float tiny;           /* the size of an element, for VERIFY_DATA_TINY */
  fmla_decode_params p; /* resolved */
  verify_tensor *tensors;
  verify_random *random;
} fill;

static float tiny_size(int32_t dtype, verify_random *random) {
  static const float bf16[] = {0x1p-20f, 0x1p-70f, 0x1p-125f, 0x1p-130f}; /* subnormal below 2^-126 */
  static const float fp16[] = {0x1p-13f, 0x1p-20f, 0x1p-22f, 0x1p-23f};   /* subnormal below 2^-14 */
  int32_t choice = verify_random_int(random, 0, 3);
  return dtype == FMLA_DTYPE_FP16 ? fp16[choice] : bf16[choice];
}

static float query_value(const fill *f) {
  float normal = verify_random_normal(f->random);
  switch (f->data) {
  case VERIFY_DATA_CONSTANT:
    return 0.5f;
  case VERIFY_DATA_PEAKED:
    return 8 * normal;
  case VERIFY_DATA_LARGE:
    return 30 * normal;
  case VERIFY_DATA_TINY:
    return f->tiny * normal;
  default:
    return normal;
  }
}

static float key_value(const fill *f, int32_t j) {
  enum { FEW = 16 };
  float normal = verify_random_normal(f->random);
  /* A row of few elements could cancel to nearly nothing, and no relative bound would be fair to it. */
  if (j < f->p.head_dim_v && f->p.head_dim_v < FEW)
    normal = 2 + 0.25f * normal;
  switch (f->data) {
  case VERIFY_DATA_CONSTANT:
    return 0.75f;
  case VERIFY_DATA_LARGE:
    return 30 * normal;
  case VERIFY_DATA_TINY:
    return f->tiny * normal;
  default:
    return normal;
  }
}

/* Element `j` of a head, whichever tensor holds it. */
static void store_query(const fill *f, const verify_query *query, int32_t head, int32_t j, float value) {
  int32_t q_dim = verify_q_dim(&f->p);
  if (j < q_dim)
    verify_store(f->p.q_dtype, f->tensors[VERIFY_Q].data, verify_q_offset(&f->p, query, head) + j, value);
  else
    verify_store(f->p.q_dtype, f->tensors[VERIFY_Q_ROPE].data,
                 verify_q_rope_offset(&f->p, query, head) + j - q_dim, value);
}

static void store_key(const fill *f, int32_t sequence, int64_t key, int32_t kv_head, int32_t j, float value) {
  verify_store(verify_kv_dtype(&f->p), f->tensors[VERIFY_KV_CACHE].data,
               verify_kv_offset(&f->p, sequence, key, kv_head) + j, value);
}

static void fill_queries(const fill *f) {
  for (int64_t i = 0; i < verify_num_queries(&f->p); i++) {
    verify_query query = verify_query_at(&f->p, i);
    if (query.sequence < 0)
      continue;
    for (int32_t head = 0; head < f->p.num_q_heads; head++)
      for (int32_t j = 0; j < f->p.head_dim_k; j++)
        store_query(f, &query, head, j, query_value(f));
  }
}

/* A token that several sequences share is drawn once for each: the last draw stands. */
static void fill_keys(const fill *f) {
  for (int32_t i = 0; i < f->p.batch_size; i++)
    for (int32_t key = 0; key < f->p.cache_seqlens[i]; key++)
      for (int32_t head = 0; head < f->p.num_kv_heads; head++)
        for (int32_t j = 0; j < f->p.head_dim_k; j++)
          store_key(f, i, key, head, j, key_value(f, j));
}

/* The key that row number `row` has its needle at; among the choices is the first key beyond its mask. */
static int64_t needle_key(const fill *f, const verify_query *query, int64_t row) {
  int32_t length = f->p.cache_seqlens[query->sequence];
  int32_t page = f->p.page_size, split = 64 * verify_random_int(f->random, 4, 4 + length / 64);
  const int64_t edges[] = {0,
                           1,
                           page - 1,
                           page,
                           2 * (int64_t)page - 1,
                           query->num_keys - 1,
                           query->num_keys,
                           31,
                           32,
                           63,
                           64,
                           127,
                           128,
                           255,
                           256,
                           257,
                           511,
                           512,
                           513,
                           1023,
                           1024,
                           767,
                           768,
                           split,
                           split - 1,
                           length - 2,
                           length - 1,
                           (length - 1) / page * page};
  size_t count = sizeof edges / sizeof edges[0];
  for (size_t i = 0; i < count; i++) {
    int64_t key = edges[((size_t)row + i) % count];
    if (key >= 0 && key < length)
      return key;
  }
  return 0;
}

/* Every row gets a coordinate where it is large, and one key that is large there as well. */
static void place_needles(const fill *f) {
  const int32_t dim = f->p.head_dim_k;
  float height = sqrtf(60 / f->p.softmax_scale); /* a score of 60 above the rest */
  for (int64_t i = 0; i < verify_num_queries(&f->p); i++) {
    verify_query query = verify_query_at(&f->p, i);
    if (query.sequence < 0 || f->p.cache_seqlens[query.sequence] == 0)
      continue;
    for (int32_t head = 0; head < f->p.num_q_heads; head++) {
      int64_t row = i * f->p.num_q_heads + head;
      int32_t j = (int32_t)((row * 37 + 5) % dim); /* neighbouring rows far apart, some in the RoPE part */
      store_query(f, &query, head, j, height);
      store_key(f, query.sequence, needle_key(f, &query, row), head / (f->p.num_q_heads / f->p.num_kv_heads), j,
                height);
    }
  }
}

static void fill_sinks(const fill *f, verify_sink kind) {
  static const float extremes[] = {-HUGE_VALF, -1e30f, 0, 20, 88, 1e4f, 1e30f};
  float *sink = f->tensors[VERIFY_SINK].data;
  float near = logf(1 + (float)f->p.page_size * (float)f->p.max_pages_per_seq);
  for (int32_t head = 0; sink != NULL && head < f->p.num_q_heads; head++)
    sink[head] = kind == VERIFY_SINK_EXTREME ? extremes[head % 7] : near + verify_random_normal(f->random);
}

void verify_fill(const verify_case *c, verify_step *step, verify_random *random) {
  fill f = {.data = c->data, .p = step->params, .tensors = step->tensors, .random = random};
  f.tiny = tiny_size(c->dtype, random);
  verify_resolve_decode(&f.p);
  fill_queries(&f);
  fill_keys(&f);
  if (c->data == VERIFY_DATA_NEEDLE)
    place_needles(&f);
  fill_sinks(&f, c->sink);
}
