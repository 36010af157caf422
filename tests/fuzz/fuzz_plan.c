/*
 * fuzz_plan.c: plans of any valid shape, up to the largest integers. Each item must be the successor of the
 * one before it, so that together they cover every key of every row once.
 *
 * SPDX-License-Identifier: MIT
 */
#include "fuzz_data.h"
#include "plan.h"

enum { MAX_BATCH = 12, MAX_ITEMS = 3000 };

typedef struct step {
  fmlai_plan_shape shape;
  int32_t cache_seqlens[MAX_BATCH], cu_seqlens_q[MAX_BATCH + 1];
  bool ragged;
  fmlai_plan plan;
  int64_t memory[3 * (MAX_BATCH + 1)];
} step;

static int64_t clamp(int64_t value, int64_t low, int64_t high) {
  return value < low ? low : value > high ? high : value;
}

static void choose_shape(step *s, fuzz_data *data) {
  fmlai_plan_shape *shape = &s->shape;
  shape->batch_size = fuzz_between(data, 0, MAX_BATCH);
  shape->max_seqlen_q = (int32_t)clamp(fuzz_wild(data), 0, INT32_MAX);
  shape->max_seqlen_k = clamp(fuzz_wild(data), 0, INT32_MAX);
  shape->num_kv_heads = (int32_t)clamp(fuzz_wild(data), 1, 1024);
  shape->group_heads = (int32_t)clamp(fuzz_wild(data), 1, 1024 / shape->num_kv_heads);
  shape->max_tile_rows = (int32_t)clamp(fuzz_wild(data), 1, 4096);
  shape->target_items = (int32_t)clamp(fuzz_wild(data), 1, INT32_MAX);
  const uint8_t choices = fuzz_byte(data);
  shape->batch_invariant = choices & 1;
  s->ragged = choices & 2;
  shape->total_q = (int64_t)shape->batch_size * shape->max_seqlen_q;
  if (s->ragged)
    shape->total_q = clamp(fuzz_wild(data), 0, INT32_MAX);
  int64_t start = 0;
  for (int32_t i = 0; i < shape->batch_size; i++) {
    s->cache_seqlens[i] = (int32_t)clamp(fuzz_wild(data), 0, shape->max_seqlen_k);
    const int64_t left = shape->total_q - start;
    start += clamp(fuzz_wild(data), 0, left < shape->max_seqlen_q ? left : shape->max_seqlen_q);
    s->cu_seqlens_q[i + 1] = s->ragged ? (int32_t)start : 0;
  }
}

static int64_t num_rows(const step *s, int32_t batch) {
  const int32_t *starts = s->cu_seqlens_q;
  return (int64_t)(s->ragged ? starts[batch + 1] - starts[batch] : s->shape.max_seqlen_q) *
         s->shape.group_heads;
}

static int32_t next_with_rows(const step *s, int32_t batch) {
  while (batch < s->shape.batch_size && num_rows(s, batch) == 0)
    batch++;
  return batch;
}

static void check_item(const step *s, const fmlai_plan_item *item, const fmlai_plan_limits *limits) {
  const fmlai_plan_tile *tile = &item->tile;
  fuzz_require(tile->batch >= 0 && tile->batch < s->shape.batch_size, "no such sequence");
  fuzz_require(tile->kv_head >= 0 && tile->kv_head < s->shape.num_kv_heads, "no such head");
  fuzz_require(tile->num_rows > 0 && tile->num_rows <= limits->tile_rows, "too few or too many rows");
  fuzz_require(tile->row_begin >= 0 && tile->row_begin + tile->num_rows <= num_rows(s, tile->batch),
               "no such row");
  fuzz_require(tile->seqlen_k == s->cache_seqlens[tile->batch], "another length");
  fuzz_require(item->split >= 0 && item->split < tile->num_splits, "no such split");
  fuzz_require(item->kv_begin < item->kv_end || tile->seqlen_k == 0, "an empty split");
  fuzz_require((item->kv_end == tile->seqlen_k) == (item->split == tile->num_splits - 1), "the last split");
  fuzz_require((item->kv_begin == 0) == (item->split == 0), "the first split");
  if (tile->num_splits > 1)
    fuzz_require(tile->first_partial >= 0 && tile->first_partial + tile->num_splits <= limits->num_partials,
                 "no such partial result");
}

static void check_successor(const step *s, const fmlai_plan_item *a, const fmlai_plan_item *b) {
  if (a->split + 1 < a->tile.num_splits) {
    fuzz_require(b->split == a->split + 1 && b->kv_begin == a->kv_end, "a gap between splits");
    fuzz_require(b->tile.batch == a->tile.batch && b->tile.kv_head == a->tile.kv_head &&
                     b->tile.row_begin == a->tile.row_begin && b->tile.first_partial == a->tile.first_partial,
                 "splits of different tiles");
    return;
  }
  fuzz_require(b->split == 0, "not the first split");
  const int64_t row_end = a->tile.row_begin + a->tile.num_rows;
  if (row_end < num_rows(s, a->tile.batch)) {
    fuzz_require(b->tile.batch == a->tile.batch && b->tile.kv_head == a->tile.kv_head &&
                     b->tile.row_begin == row_end,
                 "a gap between tiles");
  } else if (a->tile.kv_head + 1 < s->shape.num_kv_heads) {
    fuzz_require(b->tile.batch == a->tile.batch && b->tile.kv_head == a->tile.kv_head + 1 &&
                     b->tile.row_begin == 0,
                 "a gap between heads");
  } else {
    fuzz_require(b->tile.batch == next_with_rows(s, a->tile.batch + 1) && b->tile.kv_head == 0 &&
                     b->tile.row_begin == 0,
                 "a gap between sequences");
  }
  if (a->tile.num_splits > 1 && b->tile.num_splits > 1 && a->tile.batch == b->tile.batch)
    fuzz_require(b->tile.first_partial == a->tile.first_partial + a->tile.num_splits,
                 "partial results overlap");
}

/* `count` items from `begin` on. */
static void check_items(const step *s, const fmlai_plan_limits *limits, int64_t begin, int64_t count) {
  fmlai_plan_item before = {0};
  for (int64_t i = begin; i < begin + count; i++) {
    const fmlai_plan_item item = fmlai_plan_item_at(&s->plan, i);
    check_item(s, &item, limits);
    if (i > begin)
      check_successor(s, &before, &item);
    before = item;
  }
}

static void check_ends(const step *s, int64_t items) {
  const fmlai_plan_item first = fmlai_plan_item_at(&s->plan, 0), last = fmlai_plan_item_at(&s->plan, items - 1);
  fuzz_require(first.tile.batch == next_with_rows(s, 0) && first.tile.kv_head == 0 &&
                   first.tile.row_begin == 0 && first.split == 0,
               "not the first item");
  fuzz_require(next_with_rows(s, last.tile.batch + 1) == s->shape.batch_size &&
                   last.tile.kv_head == s->shape.num_kv_heads - 1 && last.split == last.tile.num_splits - 1 &&
                   last.tile.row_begin + last.tile.num_rows == num_rows(s, last.tile.batch),
               "not the last item");
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size) {
  fuzz_data data = {bytes, size};
  step s = {.shape = {0}};
  choose_shape(&s, &data);
  const fmlai_plan_limits limits = fmlai_plan_limits_of(&s.shape);
  fuzz_require(limits.index_bytes <= sizeof s.memory, "too much memory for the index");
  fmlai_plan_make(&s.plan, &s.shape, s.cache_seqlens, s.ragged ? s.cu_seqlens_q : NULL, s.memory);
  const int64_t items = fmlai_plan_num_items(&s.plan), tiles = fmlai_plan_num_tiles(&s.plan);
  fuzz_require(items >= tiles && tiles >= 0, "items without tiles");
  fuzz_require(fmlai_plan_num_partials(&s.plan) <= limits.num_partials, "more partial results than the limit");
  fuzz_require((items == 0) == (next_with_rows(&s, 0) == s.shape.batch_size), "no items for rows");
  if (items == 0)
    return 0;
  check_ends(&s, items);
  if (items <= MAX_ITEMS) {
    check_items(&s, &limits, 0, items);
  } else {
    const int64_t begin = (int64_t)(fuzz_bits(&data, 8) % (uint64_t)(items - MAX_ITEMS / 10));
    check_items(&s, &limits, begin, MAX_ITEMS / 10);
  }
  return 0;
}
