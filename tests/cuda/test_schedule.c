/*
 * test_schedule.c: what the device's schedule makes of batches at random: every block of keys of every row tile
 * once, partial results in places of their own, and for the merge a true list of the split tiles.
 *
 * SPDX-License-Identifier: MIT
 */
#include "device_schedule.h"

#include "flash_mla.h"
#include "plan.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum {
  MAX_BATCH = 300,
  MAX_PIECES = 1 << 19, /* what draw() can make of a batch: 300 x 5 heads x 40 row tiles x 8 splits */
  MAX_PLACES = 1 << 19,
  BATCHES = 150,
  TOTAL_Q = 2000 /* more than any batch has */
};

static uint64_t state = 1;

static int32_t below(int32_t end) {
  state = state * 6364136223846793005u + 1442695040888963407u;
  return (int32_t)((state >> 33) % (uint64_t)end);
}

static int32_t one_of(const int32_t *values, int count) {
  return values[below(count)];
}
#define ONE_OF(...)                                                                                            \
  one_of((const int32_t[]){__VA_ARGS__}, (int)(sizeof((const int32_t[]){__VA_ARGS__}) / sizeof(int32_t)))

static int32_t seqlens[MAX_BATCH], cu_seqlens_q[MAX_BATCH + 1], num_rounds;
static fmlai_cuda_split_tile split_tiles[MAX_PLACES];
static device_piece pieces[MAX_PIECES];

/* Equal lengths, lengths all over the range, many empty ones, or one that is longer than all others. */
static void draw_lengths(int32_t batch_size, int32_t longest) {
  const int32_t kind = below(5);
  for (int32_t i = 0; i < batch_size; i++)
    seqlens[i] = kind == 0   ? longest
                 : kind == 1 ? below(longest + 1)
                 : kind == 2 ? (below(3) == 0 ? below(longest + 1) : 0)
                 : kind == 3 ? (i == batch_size / 2 ? longest : below(longest / 50 + 2))
                             : longest - below(longest / 16 + 1);
  if (below(10) == 0) /* what the device has to clamp */
    seqlens[below(batch_size)] = below(2) == 0 ? -5 : INT32_MAX;
}

static fmlai_cuda_decode_args draw(void) {
  fmlai_cuda_decode_args a = {.num_rounds = &num_rounds, .split_tiles = split_tiles, .cache_seqlens = seqlens};
  a.batch_size = below(3) == 0 ? 1 + below(4) : 1 + below(MAX_BATCH);
  a.num_kv_heads = ONE_OF(1, 1, 1, 2, 5);
  a.group_heads = ONE_OF(1, 16, 17, 64, 128);
  a.max_seqlen_q = ONE_OF(1, 1, 2, 5);
  a.max_seqlen_k = ONE_OF(1, 64, 700, 5000, 40000);
  a.tile_rows = ONE_OF(16, 32, 64);
  a.tile_rows_log2 = __builtin_ctz((unsigned)a.tile_rows);
  a.tiles_together = ONE_OF(1, 2, 4);
  a.tiles_together_log2 = __builtin_ctz((unsigned)a.tiles_together);
  a.idle_32nds = ONE_OF(0, 1);
  a.min_share = ONE_OF(1, 2);
  a.num_ctas = a.tiles_together * ONE_OF(1, 2, 57, 66, 132);
  a.flags = below(4) == 0 ? FMLA_BATCH_INVARIANT : 0;
  draw_lengths(a.batch_size, a.max_seqlen_k);
  if (below(4) == 0) { /* what goes into items: some equal sequences or parts of them for each share */
    const int32_t items = (1 + below(4)) * (a.num_ctas / a.tiles_together), splits = 1 + below(3);
    a.num_kv_heads = a.max_seqlen_q = a.group_heads = 1;
    a.flags = 0;
    a.batch_size = items / splits < 1 ? 1 : items / splits > MAX_BATCH ? MAX_BATCH : items / splits;
    a.max_seqlen_k = 64 * 40 * splits;
    for (int32_t i = 0; i < a.batch_size; i++)
      seqlens[i] = a.max_seqlen_k - below(64);
  }
  a.num_slots = a.flags & FMLA_BATCH_INVARIANT ? INT32_MAX : 2 * a.num_ctas;
  if (below(3) == 0) {
    a.cu_seqlens_q = cu_seqlens_q;
    a.total_q = TOTAL_Q;
    for (int32_t i = 0; i < a.batch_size; i++)
      cu_seqlens_q[i + 1] = cu_seqlens_q[i] + below(a.max_seqlen_q + 1);
  }
  return a;
}

/* ---- What is expected ---------------------------------------------------------------------------------- */

static int32_t blocks_of(const fmlai_cuda_decode_args *a, int32_t batch) {
  const int32_t length = seqlens[batch] < 0                 ? 0
                         : seqlens[batch] > a->max_seqlen_k ? a->max_seqlen_k
                                                            : seqlens[batch];
  return (length + 63) / 64;
}

static int32_t tiles_of(const fmlai_cuda_decode_args *a, int32_t batch) {
  const int32_t seqlen_q = a->cu_seqlens_q ? cu_seqlens_q[batch + 1] - cu_seqlens_q[batch] : a->max_seqlen_q;
  return (seqlen_q * a->group_heads + a->tile_rows - 1) / a->tile_rows;
}

static int by_tile_and_keys(const void *x, const void *y) {
  const device_piece *p = x, *q = y;
  const int32_t p_key[] = {p->batch, p->kv_head, p->row_tile, p->block_begin};
  const int32_t q_key[] = {q->batch, q->kv_head, q->row_tile, q->block_begin};
  for (int i = 0; i < 4; i++)
    if (p_key[i] != q_key[i])
      return p_key[i] < q_key[i] ? -1 : 1;
  return 0;
}

/* The place in which the CTA that has the tile's first keys tells of it; NULL if there is none. */
static const fmlai_cuda_split_tile *told_of(const fmlai_cuda_decode_args *a, const device_piece *first) {
  for (int32_t round = 0; round < num_rounds; round++) {
    const fmlai_cuda_split_tile *t = &split_tiles[round * a->num_ctas + first->cta];
    if (t->num_splits > 0 && t->batch == first->batch && t->kv_head == first->kv_head &&
        t->row_tile == first->row_tile)
      return t;
  }
  return NULL;
}

/* The pieces of one row tile, in the order of their keys: returns how many there are. */
static int check_tile(const fmlai_cuda_decode_args *a, const device_piece *p, int count, int32_t blocks) {
  int n = 1;
  while (n < count && p[n].batch == p->batch && p[n].kv_head == p->kv_head && p[n].row_tile == p->row_tile)
    n++;
  assert_int_equal(p[0].block_begin, 0);
  assert_int_equal(p[n - 1].block_end, blocks);
  for (int i = 1; i < n; i++)
    assert_int_equal(p[i].block_begin, p[i - 1].block_end);
  for (int i = 0; i < n && blocks > 0; i++)
    assert_true(p[i].block_begin < p[i].block_end);
  const fmlai_cuda_split_tile *told = told_of(a, p);
  if (n == 1) {
    assert_int_equal(p->slot, -1);
    assert_null(told);
    return n;
  }
  assert_non_null(told);
  assert_int_equal(told->num_splits, n);
  assert_int_equal(told->seqlen_q,
                   a->cu_seqlens_q ? cu_seqlens_q[p->batch + 1] - cu_seqlens_q[p->batch] : a->max_seqlen_q);
  assert_int_equal(told->q_begin, a->cu_seqlens_q ? cu_seqlens_q[p->batch] : 0);
  for (int i = 0; i < n; i++)
    assert_int_equal(p[i].slot, i == 0 ? told->first_slot : told->next_slot + (i - 1) * a->tiles_together);
  return n;
}

static int by_slot(const void *x, const void *y) {
  const int32_t p = ((const device_piece *)x)->slot, q = ((const device_piece *)y)->slot;
  return (p > q) - (p < q);
}

static int next_of_member(int at, int count, int32_t together, int32_t member) {
  while (at < count && pieces[at].cta % together != member)
    at++;
  return at;
}

/* The CTAs of a share go over the same keys, in the same order, for neighbouring row tiles. */
static void check_member(int count, int32_t together, int32_t member) {
  int first = next_of_member(0, count, together, 0), other = next_of_member(0, count, together, member);
  while (first < count && other < count) {
    const device_piece *p = &pieces[first], *q = &pieces[other];
    assert_int_equal(p->cta + member, q->cta);
    assert_int_equal(p->batch, q->batch);
    assert_int_equal(p->kv_head, q->kv_head);
    assert_int_equal(p->row_tile + member, q->row_tile);
    assert_int_equal(p->block_begin, q->block_begin);
    assert_int_equal(p->block_end, q->block_end);
    first = next_of_member(first + 1, count, together, 0);
    other = next_of_member(other + 1, count, together, member);
  }
  assert_true(first == count && other == count);
}

/* Leaves out pieces without rows, of which all but the first CTA of a share may have some. */
static int with_rows(const fmlai_cuda_decode_args *a, int count) {
  int n = 0;
  for (int i = 0; i < count; i++)
    if (pieces[i].row_tile < tiles_of(a, pieces[i].batch))
      pieces[n++] = pieces[i];
  return n;
}

static void check_batch(const fmlai_cuda_decode_args *a) {
  memset(split_tiles, 0x55, sizeof split_tiles); /* whatever was there */
  num_rounds = 0x55555555;
  const int all = device_schedule(a, pieces, MAX_PIECES);
  assert_true(all <= MAX_PIECES);
  for (int32_t member = 1; member < a->tiles_together; member++)
    check_member(all, a->tiles_together, member);
  const int count = with_rows(a, all);
  assert_true(a->tiles_together > 1 || count == all);
  assert_true(num_rounds >= 1 && (int64_t)num_rounds * a->num_ctas <= MAX_PLACES);

  qsort(pieces, (size_t)count, sizeof *pieces, by_tile_and_keys);
  int at = 0, num_split = 0, num_told = 0;
  for (int32_t batch = 0; batch < a->batch_size; batch++)
    for (int32_t head = 0; head < a->num_kv_heads; head++)
      for (int32_t tile = 0; tile < tiles_of(a, batch); tile++) {
        assert_true(at < count);
        assert_int_equal(pieces[at].batch, batch);
        assert_int_equal(pieces[at].kv_head, head);
        assert_int_equal(pieces[at].row_tile, tile);
        const int n = check_tile(a, &pieces[at], count - at, blocks_of(a, batch));
        num_split += n > 1;
        at += n;
      }
  assert_int_equal(at, count);
  for (int32_t place = 0; place < num_rounds * a->num_ctas; place++)
    num_told += split_tiles[place].num_splits > 0;
  assert_int_equal(num_told, num_split);

  qsort(pieces, (size_t)count, sizeof *pieces, by_slot);
  for (int i = 1; i < count; i++)
    assert_true(pieces[i].slot == -1 || pieces[i].slot != pieces[i - 1].slot);
  if ((a->flags & FMLA_BATCH_INVARIANT) == 0) { /* what the workspace has in this mode */
    assert_true(count == 0 || pieces[count - 1].slot < 2 * a->num_ctas);
    assert_true(num_rounds <= FMLAI_CUDA_MAX_ROUNDS);
  }
}

static void test_batches_at_random(void **unused) {
  (void)unused;
  for (int i = 0; i < BATCHES; i++) {
    const fmlai_cuda_decode_args a = draw();
    check_batch(&a);
  }
}

/* What is computed is shared out evenly: no CTA has more than a part more than the others. */
static void test_shares_are_even(void **unused) {
  (void)unused;
  static const int32_t lengths[] = {4096, 16384, 1000, 131072};
  for (int i = 0; i < 4; i++)
    for (int32_t batch_size = 1; batch_size <= 256; batch_size *= 4) {
      fmlai_cuda_decode_args a = {
          .num_rounds = &num_rounds, .split_tiles = split_tiles, .cache_seqlens = seqlens};
      a.batch_size = batch_size;
      a.num_kv_heads = a.max_seqlen_q = a.tiles_together = 1;
      a.group_heads = a.tile_rows = 16;
      a.tile_rows_log2 = 4;
      a.min_share = 2;
      a.idle_32nds = 1;
      a.num_ctas = 132;
      a.num_slots = 2 * a.num_ctas;
      a.max_seqlen_k = lengths[i];
      for (int32_t k = 0; k < batch_size; k++)
        seqlens[k] = lengths[i];
      check_batch(&a);
      const int count = device_schedule(&a, pieces, MAX_PIECES);
      int32_t blocks[132] = {0}, most = 0, all = 0;
      for (int p = 0; p < count; p++) {
        blocks[pieces[p].cta] += pieces[p].block_end - pieces[p].block_begin;
        all += pieces[p].block_end - pieces[p].block_begin;
      }
      for (int cta = 0; cta < 132; cta++)
        most = blocks[cta] > most ? blocks[cta] : most;
      const int32_t even = (all + 131) / 132;
      assert_true(most <= even + even / 32 + 8);
    }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_batches_at_random),
      cmocka_unit_test(test_shares_are_even),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
