/*
 * test_plan.c: the plan of a decode step against a slow enumeration, on seeded random shapes.
 *
 * SPDX-License-Identifier: MIT
 */
#include "plan.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

enum { NUM_SHAPES = 6000, MAX_BATCH = 40, MAX_ITEMS_LISTED = 20000 };

/* ---- Random shapes and lengths -------------------------------------------------------------------------- */

static uint64_t random_state;

static uint64_t random_bits(void) {
  random_state ^= random_state << 13;
  random_state ^= random_state >> 7;
  random_state ^= random_state << 17;
  return random_state;
}

/* 0 .. limit, small numbers as likely as large ones. */
static int64_t random_up_to(int64_t limit) {
  const int bits = (int)(random_bits() % 63) + 1;
  return (int64_t)(random_bits() >> (64 - bits)) % (limit + 1);
}

typedef struct step {
  fmlai_plan_shape shape;
  int32_t cache_seqlens[MAX_BATCH], cu_seqlens_q[MAX_BATCH + 1];
  bool ragged;
  fmlai_plan plan;
  int64_t memory[3 * (MAX_BATCH + 1)];
} step;

static int32_t seqlen_q(const step *s, int32_t batch) {
  return s->ragged ? s->cu_seqlens_q[batch + 1] - s->cu_seqlens_q[batch] : s->shape.max_seqlen_q;
}

static void make_plan(step *s) {
  fmlai_plan_make(&s->plan, &s->shape, s->cache_seqlens, s->ragged ? s->cu_seqlens_q : NULL, s->memory);
}

static void random_step(step *s, uint64_t seed) {
  random_state = seed * 0x9e3779b97f4a7c15u + 1;
  static const int32_t tile_rows[] = {1, 2, 7, 64, 128, 1024};
  fmlai_plan_shape *shape = &s->shape;
  shape->batch_size = (int32_t)random_up_to(MAX_BATCH);
  shape->max_seqlen_q = (int32_t)random_up_to(random_bits() % 2 ? 4 : 3000);
  shape->max_seqlen_k = random_up_to(random_bits() % 2 ? 1500 : 200000);
  shape->num_kv_heads = 1 + (int32_t)random_up_to(3);
  shape->group_heads = 1 + (int32_t)random_up_to(127);
  shape->max_tile_rows = tile_rows[random_bits() % 6];
  shape->target_items = 1 + (int32_t)random_up_to(300);
  shape->batch_invariant = random_bits() % 2 != 0;
  s->ragged = random_bits() % 2 != 0;
  s->cu_seqlens_q[0] = 0;
  for (int32_t i = 0; i < shape->batch_size; i++) {
    const bool full = random_bits() % 4 == 0;
    s->cache_seqlens[i] = (int32_t)(full ? shape->max_seqlen_k : random_up_to(shape->max_seqlen_k));
    s->cu_seqlens_q[i + 1] = s->cu_seqlens_q[i] + (int32_t)random_up_to(shape->max_seqlen_q);
  }
  shape->total_q = s->ragged ? s->cu_seqlens_q[shape->batch_size] + random_up_to(5)
                             : (int64_t)shape->batch_size * shape->max_seqlen_q;
  make_plan(s);
}

/* ---- The published rules, spelt out --------------------------------------------------------------------- */

static int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

static int64_t expected_tile_rows(const fmlai_plan_shape *s) {
  const int64_t rows = (int64_t)s->max_seqlen_q * s->group_heads;
  return rows == 0 ? 1 : rows < s->max_tile_rows ? rows : s->max_tile_rows;
}

static int64_t tiles_per_head(const step *s, int32_t batch) {
  return ceil_div((int64_t)seqlen_q(s, batch) * s->shape.group_heads, expected_tile_rows(&s->shape));
}

static int64_t expected_split_tokens(const step *s, int32_t batch) {
  const int64_t seqlen_k = s->cache_seqlens[batch];
  if (s->shape.batch_invariant) {
    const int64_t rows = (int64_t)seqlen_q(s, batch) * s->shape.group_heads;
    const int64_t of_short = ceil_div(seqlen_k, rows > 32 ? 2048 : 1024), of_long = ceil_div(seqlen_k, 4096);
    const int64_t splits = of_long > 8 ? 8 : of_long > 4 ? of_long : of_short > 4 ? 4 : of_short;
    return splits == 0 ? 64 : ceil_div(ceil_div(seqlen_k, splits), 64) * 64;
  }
  int64_t work = 0;
  for (int32_t i = 0; i < s->shape.batch_size; i++)
    work += s->shape.num_kv_heads * tiles_per_head(s, i) * s->cache_seqlens[i];
  const int64_t share = ceil_div(ceil_div(work, s->shape.target_items), 64) * 64;
  return share > 256 ? share : 256;
}

/* ---- Invariants ----------------------------------------------------------------------------------------- */

static int64_t num_items_expected(const step *s) {
  int64_t items = 0;
  for (int32_t i = 0; i < s->shape.batch_size; i++) {
    const int64_t splits = ceil_div(s->cache_seqlens[i], expected_split_tokens(s, i));
    items += s->shape.num_kv_heads * tiles_per_head(s, i) * (splits > 1 ? splits : 1);
  }
  return items;
}

static void check_tile(const step *s, const fmlai_plan_tile *tile, int32_t batch, int32_t kv_head,
                       int64_t row_begin, int64_t num_splits) {
  const int64_t rows_left = (int64_t)seqlen_q(s, batch) * s->shape.group_heads - row_begin;
  const int64_t tile_rows = expected_tile_rows(&s->shape);
  assert_int_equal(tile->batch, batch);
  assert_int_equal(tile->kv_head, kv_head);
  assert_int_equal(tile->row_begin, row_begin);
  assert_int_equal(tile->num_rows, rows_left < tile_rows ? rows_left : tile_rows);
  assert_int_equal(tile->q_begin, s->ragged ? s->cu_seqlens_q[batch] : 0);
  assert_int_equal(tile->seqlen_q, seqlen_q(s, batch));
  assert_int_equal(tile->seqlen_k, s->cache_seqlens[batch]);
  assert_int_equal(tile->num_splits, num_splits);
}

/* Items and tiles come in order and cover every row and every key once; partials are numbered without gaps. */
static void check_enumeration(const step *s) {
  int64_t item = 0, tile = 0, partial = 0;
  for (int32_t batch = 0; batch < s->shape.batch_size; batch++) {
    const int64_t tokens = expected_split_tokens(s, batch), seqlen_k = s->cache_seqlens[batch];
    const int64_t num_splits = seqlen_k > tokens ? ceil_div(seqlen_k, tokens) : 1;
    const int64_t rows = (int64_t)seqlen_q(s, batch) * s->shape.group_heads;
    for (int32_t kv_head = 0; kv_head < s->shape.num_kv_heads; kv_head++)
      for (int64_t row = 0; row < rows; row += expected_tile_rows(&s->shape), tile++) {
        const fmlai_plan_tile found = fmlai_plan_tile_at(&s->plan, tile);
        check_tile(s, &found, batch, kv_head, row, num_splits);
        int64_t keys = 0;
        for (int64_t split = 0; split < num_splits; split++, item++) {
          const fmlai_plan_item part = fmlai_plan_item_at(&s->plan, item);
          check_tile(s, &part.tile, batch, kv_head, row, num_splits);
          assert_int_equal(part.split, split);
          assert_int_equal(part.kv_begin, keys);
          assert_true(part.kv_end > part.kv_begin || seqlen_k == 0);
          assert_true(part.kv_end - part.kv_begin == tokens || split == num_splits - 1);
          keys = part.kv_end;
          if (num_splits > 1) {
            assert_int_equal(found.first_partial + split, partial);
            assert_int_equal(part.tile.first_partial + split, partial);
            partial++;
          }
        }
        assert_int_equal(keys, seqlen_k);
      }
  }
  assert_int_equal(item, fmlai_plan_num_items(&s->plan));
  assert_int_equal(tile, fmlai_plan_num_tiles(&s->plan));
  assert_int_equal(partial, fmlai_plan_num_partials(&s->plan));
}

static void test_enumeration(void **state) {
  (void)state;
  static step s;
  int listed = 0, split = 0, invariant = 0, empty = 0;
  for (uint64_t seed = 0; seed < NUM_SHAPES; seed++) {
    random_step(&s, seed);
    const int64_t items = num_items_expected(&s);
    assert_int_equal(fmlai_plan_num_items(&s.plan), items);
    if (items > MAX_ITEMS_LISTED)
      continue;
    check_enumeration(&s);
    listed++;
    split += fmlai_plan_num_partials(&s.plan) > 0;
    invariant += s.shape.batch_invariant && fmlai_plan_num_partials(&s.plan) > 0;
    empty += items == 0;
  }
  /* The shapes are of every kind. */
  assert_true(listed > NUM_SHAPES / 2 && split > 500 && invariant > 200 && empty > 50);
}

static void test_limits_hold(void **state) {
  (void)state;
  static step s;
  int reached = 0;
  for (uint64_t seed = 0; seed < NUM_SHAPES; seed++) {
    random_step(&s, seed);
    const fmlai_plan_limits limits = fmlai_plan_limits_of(&s.shape);
    const int64_t partials = fmlai_plan_num_partials(&s.plan);
    assert_int_equal(limits.tile_rows, expected_tile_rows(&s.shape));
    assert_int_equal(limits.index_bytes, 3 * sizeof(int64_t) * (size_t)(s.shape.batch_size + 1));
    assert_true(partials <= limits.num_partials);
    assert_true(s.shape.batch_invariant || partials <= 2 * (int64_t)s.shape.target_items);
    reached += partials > 0 && partials == limits.num_partials;
  }
  assert_true(reached > 25); /* the limit is no larger than it must be */
}

/* ---- Limits as the shape grows -------------------------------------------------------------------------- */

enum { NUM_EXTENTS = 6 };

/* Grows one extent; total_q goes along where it must. */
static void grow(fmlai_plan_shape *s, int extent, int64_t by) {
  const bool uniform = s->total_q == (int64_t)s->batch_size * s->max_seqlen_q;
  switch (extent) {
  case 0:
    s->batch_size += (int32_t)by;
    break;
  case 1:
    s->max_seqlen_q += (int32_t)by;
    break;
  case 2:
    s->max_seqlen_k += by;
    break;
  case 3:
    s->num_kv_heads += (int32_t)by;
    break;
  case 4:
    s->group_heads += (int32_t)by;
    break;
  default:
    s->total_q += by;
  }
  if (uniform && extent < 2)
    s->total_q = (int64_t)s->batch_size * s->max_seqlen_q;
}

static int64_t partial_rows(const fmlai_plan_limits *limits) {
  return limits->num_partials * limits->tile_rows;
}

static void test_limits_never_shrink(void **state) {
  (void)state;
  static step s;
  int grown = 0;
  for (uint64_t seed = 0; seed < NUM_SHAPES; seed++) {
    random_step(&s, seed);
    const fmlai_plan_limits before = fmlai_plan_limits_of(&s.shape);
    for (int extent = 0; extent < NUM_EXTENTS; extent++) {
      fmlai_plan_shape larger = s.shape;
      grow(&larger, extent, 1 + random_up_to(200));
      const fmlai_plan_limits after = fmlai_plan_limits_of(&larger);
      assert_true(after.tile_rows >= before.tile_rows);
      assert_true(after.num_partials >= before.num_partials);
      assert_true(after.index_bytes >= before.index_bytes);
      grown += partial_rows(&after) > partial_rows(&before);
    }
  }
  assert_true(grown > NUM_SHAPES);
}

/* ---- Batch-invariant mode ------------------------------------------------------------------------------- */

/* A sequence's splits are the same alone and in any batch. */
static void test_invariant_splits(void **state) {
  (void)state;
  static step s, alone;
  for (uint64_t seed = 0; seed < NUM_SHAPES / 4; seed++) {
    random_step(&s, seed);
    s.shape.batch_invariant = true;
    make_plan(&s);
    for (int64_t item = 0; item < fmlai_plan_num_items(&s.plan); item += 1 + random_up_to(500)) {
      const fmlai_plan_item in_batch = fmlai_plan_item_at(&s.plan, item);
      alone.shape = s.shape;
      alone.shape.batch_size = 1;
      alone.shape.total_q = alone.shape.max_seqlen_q = seqlen_q(&s, in_batch.tile.batch);
      alone.shape.target_items = 1;
      alone.cache_seqlens[0] = in_batch.tile.seqlen_k;
      make_plan(&alone);
      const fmlai_plan_item single = fmlai_plan_item_at(&alone.plan, in_batch.split);
      assert_int_equal(single.tile.num_splits, in_batch.tile.num_splits);
      assert_int_equal(single.kv_begin, in_batch.kv_begin);
      assert_int_equal(single.kv_end, in_batch.kv_end);
    }
  }
}

/* ---- Giant extents: no overflow (with the undefined behaviour sanitizer), nothing negative --------------- */

static void test_giant_limits(void **state) {
  (void)state;
  static const int64_t sizes[] = {0, 1, 128, INT32_MAX};
  static const int64_t totals[] = {0, INT32_MAX, INT64_MAX / 1024, INT64_MAX};
  for (int i = 0; i < 1 << 11; i++) {
    const fmlai_plan_shape shape = {.batch_size = (int32_t)sizes[i & 3],
                                    .max_seqlen_q = (int32_t)sizes[i >> 2 & 3],
                                    .max_seqlen_k = sizes[i >> 4 & 3],
                                    .total_q = totals[i >> 6 & 3],
                                    .num_kv_heads = i >> 8 & 1 ? 1024 : 1,
                                    .group_heads = i >> 8 & 1 ? 1 : 1024,
                                    .max_tile_rows = 128,
                                    .target_items = i >> 9 & 1 ? INT32_MAX : 128,
                                    .batch_invariant = i >> 10 & 1};
    const fmlai_plan_limits limits = fmlai_plan_limits_of(&shape);
    assert_true(limits.num_partials >= 0);
    assert_in_range(limits.tile_rows, 1, 128);
  }
}

static void test_giant_plans(void **state) {
  (void)state;
  static step s;
  for (int i = 0; i < 32; i++) {
    s = (step){.shape = {.batch_size = MAX_BATCH,
                         .max_seqlen_q = INT32_MAX,
                         .max_seqlen_k = INT32_MAX,
                         .num_kv_heads = i & 1 ? 1024 : 1,
                         .group_heads = i & 1 ? 1 : 1024,
                         .total_q = (int64_t)MAX_BATCH * INT32_MAX,
                         .max_tile_rows = i & 2 ? 1 : 128,
                         .target_items = i & 4 ? INT32_MAX : 1,
                         .batch_invariant = i & 8}};
    for (int32_t b = 0; b < MAX_BATCH; b++)
      s.cache_seqlens[b] = b % 3 == 0 && i & 16 ? 0 : INT32_MAX - b;
    make_plan(&s);
    const int64_t items = fmlai_plan_num_items(&s.plan);
    assert_true(items > 0);
    assert_true(fmlai_plan_num_partials(&s.plan) <= fmlai_plan_limits_of(&s.shape).num_partials);
    const fmlai_plan_item first = fmlai_plan_item_at(&s.plan, 0), last = fmlai_plan_item_at(&s.plan, items - 1);
    assert_int_equal(first.tile.batch, 0);
    assert_int_equal(first.kv_begin, 0);
    assert_int_equal(last.tile.batch, MAX_BATCH - 1);
    assert_int_equal(last.tile.kv_head, s.shape.num_kv_heads - 1);
    assert_int_equal(last.split, last.tile.num_splits - 1);
    assert_int_equal(last.kv_end, last.tile.seqlen_k);
    assert_int_equal(last.tile.row_begin + last.tile.num_rows, (int64_t)INT32_MAX * s.shape.group_heads);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_enumeration),         cmocka_unit_test(test_limits_hold),
      cmocka_unit_test(test_limits_never_shrink), cmocka_unit_test(test_invariant_splits),
      cmocka_unit_test(test_giant_limits),        cmocka_unit_test(test_giant_plans),
  };
  return cmocka_run_group_tests_name("plan", tests, NULL, NULL);
}
