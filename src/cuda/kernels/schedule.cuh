/*
 * The schedule, computed where the lengths are, by every CTA for itself. The batch's row tiles are cut in one of two ways.
 *
 * The line: the tiles stand on a line, each as long as its blocks of 64 keys plus OVERHEAD_BLOCKS for its beginning and
 * end; the line is cut into equal shares, one for each CTA. A CTA meets at most one tile that another began and one that
 * another goes on with: two partial results. CTA c's partial of a tile begun before is slot c, of a tile it begins slot
 * num_ctas + c.
 *
 * Items: the tiles of a sequence have some splits of equal length, and a split is an item. A share takes items s, s +
 * number of shares, ... So it is in the batch-invariant mode, where src/plan.h's formula gives a sequence's splits; and in
 * the normal mode where shares are long, and there is a length of splits with which every share has one item, or two, or
 * up to MAX_ROUNDS whole tiles, and is hardly longer than on the line: then CTAs begin anew less often, and where a
 * sequence is one split nothing is to be merged.
 *
 * With tiles_together 2 or 4, so many of a KV head's row tiles are cut together, and so many neighbouring CTAs have a
 * share. They bring keys for each other, so all have all its pieces, also one for which there is no row tile: of that the
 * piece has no rows.
 *
 * The merge does not work this out again: for each item of a CTA, or for its stretch of the line, there is a place that
 * tells of the tile whose first split it is, if it is one.
 */
#ifndef FMLAI_CUDA_SCHEDULE_CUH
#define FMLAI_CUDA_SCHEDULE_CUH

#include "args.h"
#include "turn.cuh"

#include <stdint.h>

enum {
  BLOCK_KEYS = 64,
  OVERHEAD_BLOCKS = 2,
  ITEM_MIN_BLOCKS = 16,    /* items were slower where shares are shorter (docs/hopper-kernel.md), not understood */
  SECOND_PIECE_BLOCKS = 4, /* what a CTA could compute in the time that a second piece and its merge take */
  MAX_ROUNDS = FMLAI_CUDA_MAX_ROUNDS,
  /* src/plan.h's formula, in blocks */
  INVARIANT_FEW_ROWS = 32,
  INVARIANT_SPLIT_OF_FEW = 16,
  INVARIANT_SPLIT_OF_MANY = 32,
  INVARIANT_SHORT_SPLITS = 4,
  INVARIANT_LONG_SPLIT = 64,
  INVARIANT_MAX_SPLITS = 8
};

#define FLAG_CAUSAL 0x1u
#define FLAG_BATCH_INVARIANT 0x2u
#define FLAG_EMPTY_LSE_POS_INF 0x4u

typedef fmlai_cuda_decode_args decode_args;
typedef fmlai_cuda_split_tile split_tile;

/* For a >= 0 and b > 0. */
static __device__ __forceinline__ int32_t quotient(int32_t a, int32_t b) { return (int32_t)((uint32_t)a / (uint32_t)b); }

static __device__ __forceinline__ int32_t ceil_div(int32_t a, int32_t b) { return quotient(a + b - 1, b); }

/* The host has seen to it that 31 bits hold query tokens x heads, seqlen_k + BLOCK_KEYS, and the whole line. */

/* ---- Sequences: every value that comes from memory is clamped -------------------------------------- */

typedef struct sequence {
  int32_t q_begin; /* first row of q, out, lse; 0 without cu_seqlens_q */
  int32_t seqlen_q;
  int32_t seqlen_k;
  int32_t tiles_per_head;
  int32_t groups_per_head; /* of tiles_together row tiles */
  int32_t num_groups;
  int32_t num_blocks;
} sequence;

static __device__ __forceinline__ int32_t clamp(int32_t value, int32_t low, int32_t high) {
  return min(max(value, low), high);
}

static __device__ __forceinline__ sequence read_sequence(const decode_args *a, int32_t batch) {
  sequence s;
  s.q_begin = 0;
  s.seqlen_q = a->max_seqlen_q;
  if (a->cu_seqlens_q) {
    s.q_begin = clamp(a->cu_seqlens_q[batch], 0, (int32_t)a->total_q);
    const int32_t end = clamp(a->cu_seqlens_q[batch + 1], s.q_begin, (int32_t)a->total_q);
    s.seqlen_q = min(end - s.q_begin, a->max_seqlen_q);
  }
  s.seqlen_k = clamp(a->cache_seqlens[batch], 0, a->max_seqlen_k);
  s.tiles_per_head = (s.seqlen_q * a->group_heads + a->tile_rows - 1) >> a->tile_rows_log2;
  s.groups_per_head = (s.tiles_per_head + a->tiles_together - 1) >> a->tiles_together_log2;
  s.num_groups = s.groups_per_head * a->num_kv_heads;
  s.num_blocks = (s.seqlen_k + BLOCK_KEYS - 1) / BLOCK_KEYS;
  return s;
}

/* How the batch is cut. */
typedef struct cut {
  int32_t share; /* blocks of a share of the line; 0: items */
  int32_t split; /* blocks of an item; 0: by the batch-invariant formula */
} cut;

static __device__ __forceinline__ int32_t invariant_split_blocks(const decode_args *a, const sequence *s) {
  const int32_t blocks = max(s->num_blocks, 1);
  const bool is_few = s->seqlen_q * a->group_heads <= INVARIANT_FEW_ROWS;
  const int32_t short_splits = ceil_div(blocks, is_few ? INVARIANT_SPLIT_OF_FEW : INVARIANT_SPLIT_OF_MANY);
  const int32_t long_splits = ceil_div(blocks, INVARIANT_LONG_SPLIT);
  const int32_t of_short = min(short_splits, (int32_t)INVARIANT_SHORT_SPLITS);
  return ceil_div(blocks, max(of_short, min(long_splits, (int32_t)INVARIANT_MAX_SPLITS)));
}

/* Blocks of a split where the batch is cut into items. */
static __device__ __forceinline__ int32_t split_blocks(const decode_args *a, const cut *c, const sequence *s) {
  return c->split > 0 ? c->split : invariant_split_blocks(a, s);
}

static __device__ __forceinline__ int32_t num_splits(const decode_args *a, const cut *c, const sequence *s) {
  const int32_t blocks = split_blocks(a, c, s);
  return s->num_blocks > blocks ? ceil_div(s->num_blocks, blocks) : 1;
}

/* Length on the line, or number of items. */
static __device__ __forceinline__ int32_t sequence_weight(const decode_args *a, const cut *c, const sequence *s) {
  return s->num_groups * (c->share > 0 ? s->num_blocks + OVERHEAD_BLOCKS : num_splits(a, c, s));
}

/* ---- The whole batch, by one warp -------------------------------------------------------------------- */

static __device__ __forceinline__ int32_t warp_sum(int32_t value) { return (int32_t)__reduce_add_sync(0xffffffffu, value); }

static __device__ __forceinline__ int32_t warp_inclusive_scan(int32_t value, int lane) {
#pragma unroll
  for (int offset = 1; offset < 32; offset *= 2) {
    const int32_t before = __shfl_up_sync(0xffffffffu, value, offset);
    if (lane >= offset)
      value += before;
  }
  return value;
}

static __device__ __forceinline__ int32_t batch_weight(const decode_args *a, const cut *c, int lane) {
  int32_t sum = 0;
  for (int32_t i = lane; i < a->batch_size; i += 32) {
    const sequence s = read_sequence(a, i);
    sum += sequence_weight(a, c, &s);
  }
  return warp_sum(sum);
}

typedef struct batch_totals {
  int32_t groups;         /* of tiles_together row tiles */
  int32_t blocks;         /* of all groups */
  int32_t longest_blocks; /* of a sequence that has rows */
} batch_totals;

static __device__ __forceinline__ batch_totals add_up_batch(const decode_args *a, int lane) {
  batch_totals t = {0, 0, 0};
  for (int32_t i = lane; i < a->batch_size; i += 32) {
    const sequence s = read_sequence(a, i);
    t.groups += s.num_groups;
    t.blocks += s.num_groups * s.num_blocks;
    t.longest_blocks = max(t.longest_blocks, s.num_groups > 0 ? s.num_blocks : 0);
  }
  return batch_totals{warp_sum(t.groups), warp_sum(t.blocks), __reduce_max_sync(0xffffffffu, t.longest_blocks)};
}

static __device__ __forceinline__ int32_t num_shares(const decode_args *a) {
  return a->num_ctas >> a->tiles_together_log2;
}

/* Decides how to cut the batch, and returns its weight then. A look at all lengths takes a good part of a microsecond,
   and everybody waits for it. */
static __device__ __forceinline__ int32_t cut_batch(const decode_args *a, cut *c, int lane) {
  *c = cut{0, 0};
  if (a->flags & FLAG_BATCH_INVARIANT)
    return batch_weight(a, c, lane);
  const batch_totals t = add_up_batch(a, lane);
  const int32_t weight = t.blocks + t.groups * OVERHEAD_BLOCKS;
  const int32_t share = max(ceil_div(weight, num_shares(a)), a->min_share);
  for (int32_t rounds = 1; share >= ITEM_MIN_BLOCKS && rounds <= MAX_ROUNDS; rounds++) {
    const int32_t most = rounds * num_shares(a);
    int32_t longest =
        quotient(share + share / 32 * a->idle_32nds + OVERHEAD_BLOCKS + SECOND_PIECE_BLOCKS, rounds) - OVERHEAD_BLOCKS;
    if (t.groups > most)
      continue;
    *c = cut{0, t.longest_blocks};
    if (t.longest_blocks <= longest)
      return t.groups;
    if (rounds > 2) /* the workspace holds the partial results of two items of each CTA */
      continue;
    /* The shortest splits that are no more items; none, if the longest are more. */
    int32_t shortest = ceil_div(t.blocks, most), num_items = 0;
    for (int32_t split = longest; shortest <= longest; split = (shortest + longest) / 2) {
      const cut items = {0, split};
      const int32_t weight_then = batch_weight(a, &items, lane);
      if (weight_then > most) {
        shortest = split + 1;
        continue;
      }
      *c = items;
      num_items = weight_then;
      longest = split - 1;
    }
    if (num_items > 0)
      return num_items;
  }
  *c = cut{share, 0};
  return weight;
}

/* Where a position of the line, or an item, lies. */
typedef struct place {
  int32_t batch;         /* batch_size: behind the last */
  int32_t begin;         /* weight of all sequences before it */
  int32_t splits_before; /* items: their splits, where they have several */
} place;

/* Moves on to the sequence that holds `target`, from a place before it. */
static __device__ __forceinline__ place find_place(const decode_args *a, const cut *c, place from, int32_t target,
                                                   int lane) {
  place p = from;
  while (p.batch < a->batch_size) {
    const int32_t i = p.batch + lane;
    int32_t weight = 0, groups = 0;
    if (i < a->batch_size) {
      const sequence s = read_sequence(a, i);
      weight = sequence_weight(a, c, &s);
      groups = s.num_groups;
    }
    const int32_t end = warp_inclusive_scan(weight, lane);
    const unsigned beyond = __ballot_sync(0xffffffffu, p.begin + end > target);
    const int last = beyond ? __ffs(beyond) - 1 : 32; /* lanes before it are passed */
    if (c->share == 0)
      p.splits_before += warp_sum(lane < last && weight > groups ? weight : 0);
    p.begin += __shfl_sync(0xffffffffu, last > 0 ? end : 0, max(last - 1, 0));
    p.batch = min(p.batch + last, a->batch_size);
    if (beyond)
      break;
  }
  return p;
}

/* ---- A CTA's pieces ---------------------------------------------------------------------------------- */

/* Some keys of one row tile. */
typedef struct piece {
  sequence seq;
  int32_t batch; /* -1: no more pieces */
  int32_t kv_head;
  int32_t row_tile; /* of the KV head's rows */
  int32_t block_begin, block_end;
  int32_t slot; /* of the partial result; -1: the tile is not split */
} piece;

/* No tile is split here, unless that is written later by lane 0. */
static __device__ __forceinline__ void clear_split_tiles(const decode_args *a, int32_t cta, int32_t num_rounds,
                                                         int lane) {
  for (int32_t round = lane; round < num_rounds; round += 32)
    a->split_tiles[round * a->num_ctas + cta] = split_tile{};
  if (cta == 0 && lane == 0)
    *a->num_rounds = num_rounds;
  __syncwarp();
}

/* Of the tile that a piece begins. By one thread. */
static __device__ __forceinline__ void tell_of_split_tile(const decode_args *a, int32_t place, const piece *p,
                                                          int32_t num_splits, int32_t next_slot) {
  a->split_tiles[place] = split_tile{p->batch, p->kv_head, p->row_tile, p->seq.q_begin, p->seq.seqlen_q, num_splits, p->slot, next_slot};
}

/* The state of a CTA's walk over its share; the same in all lanes of its warp. */
typedef struct walk {
  cut batch_cut;
  int32_t position; /* on the line, or the next item */
  int32_t end;      /* of the share, or the number of items */
  place at;
  int32_t to_tell; /* where to tell of the next item, or of the share: [round, CTA] */
} walk;

/* Of the CTAs that have the share together. */
static __device__ __forceinline__ int32_t member_of_share(const decode_args *a, const walk *w) {
  return w->to_tell & (a->tiles_together - 1);
}

static __device__ __forceinline__ walk begin_walk(const decode_args *a, int32_t cta, int lane) {
  walk w;
  const int32_t weight = cut_batch(a, &w.batch_cut, lane), number = cta >> a->tiles_together_log2;
  w.position = number;
  w.end = weight;
  if (w.batch_cut.share > 0) {
    w.position = (int32_t)min((int64_t)w.batch_cut.share * number, (int64_t)weight);
    w.end = min(w.batch_cut.share, weight - w.position) + w.position;
  }
  w.at = place{0, 0, 0};
  w.to_tell = cta;
  clear_split_tiles(a, cta, w.batch_cut.share > 0 ? 1 : max(ceil_div(weight, num_shares(a)), 1), lane);
  return w;
}

/* A member's tile of a group; false if there is none, and then the piece has no rows. */
static __device__ __forceinline__ bool find_tile(const decode_args *a, const sequence *s, int32_t group, int32_t member,
                                                 int32_t *kv_head, int32_t *row_tile) {
  *kv_head = a->num_kv_heads == 1 ? 0 : quotient(group, s->groups_per_head);
  *row_tile = (group - *kv_head * s->groups_per_head) * a->tiles_together + member;
  return *row_tile < s->tiles_per_head;
}

/* An item: false if it is none, as lengths changed meanwhile. */
static __device__ __forceinline__ bool take_item(const decode_args *a, walk *w, piece *p, int lane) {
  const int32_t inside = w->position - w->at.begin;
  const int32_t blocks = split_blocks(a, &w->batch_cut, &p->seq), splits = num_splits(a, &w->batch_cut, &p->seq);
  const int32_t group = quotient(inside, splits);
  const int32_t number = inside - group * splits;
  p->block_begin = number * blocks;
  p->block_end = min(p->block_begin + blocks, p->seq.num_blocks);
  const int32_t member = member_of_share(a, w);
  p->slot = splits > 1 ? (w->at.splits_before + inside) * a->tiles_together + member : -1;
  const bool has_tile = find_tile(a, &p->seq, group, member, &p->kv_head, &p->row_tile);
  const bool is_item = p->slot < a->num_slots && p->kv_head < a->num_kv_heads;
  if (is_item && has_tile && splits > 1 && number == 0 && lane == 0)
    tell_of_split_tile(a, w->to_tell, p, splits, p->slot + a->tiles_together);
  w->position += num_shares(a);
  w->to_tell += a->num_ctas;
  return is_item;
}

/* What the share has of the tile at its position: false if that is nothing. */
static __device__ __forceinline__ bool take_stretch(const decode_args *a, walk *w, piece *p, int lane) {
  const int32_t length = p->seq.num_blocks + OVERHEAD_BLOCKS;
  const int32_t inside = w->position - w->at.begin;
  const int32_t group = inside < length ? 0 : quotient(inside, length);
  const int32_t tile_begin = w->at.begin + group * length;
  const int32_t keys_begin = tile_begin + OVERHEAD_BLOCKS; /* the place of block 0 */
  const int32_t tile_end = tile_begin + length;
  const int32_t from = w->position, to = min(w->end, tile_end);
  w->position = to;
  const int32_t cta = w->to_tell; /* the line has one round */
  const bool has_tile = find_tile(a, &p->seq, group, member_of_share(a, w), &p->kv_head, &p->row_tile);
  if (p->kv_head >= a->num_kv_heads)
    return false; /* lengths changed meanwhile */
  if (p->seq.num_blocks == 0) {
    /* Nothing to read, but its rows are to be written: by the share that holds its beginning. */
    p->block_begin = p->block_end = 0;
    p->slot = -1;
    return from == tile_begin;
  }
  if (to <= keys_begin)
    return false; /* only overhead in this share */
  p->block_begin = max(from - keys_begin, 0);
  p->block_end = to - keys_begin;
  const bool begins = p->block_begin == 0, ends = p->block_end == p->seq.num_blocks;
  p->slot = begins && ends ? -1 : begins ? a->num_ctas + cta : cta;
  if (has_tile && begins && !ends && lane == 0) {
    const int32_t last = quotient(tile_end - 1, w->batch_cut.share); /* share */
    tell_of_split_tile(a, cta, p, last - (cta >> a->tiles_together_log2) + 1, cta + a->tiles_together);
  }
  return true;
}

/* The next piece of the walk. */
static __device__ __forceinline__ piece next_piece(const decode_args *a, walk *w, int lane) {
  piece p;
  while (w->position < w->end) {
    w->at = find_place(a, &w->batch_cut, w->at, w->position, lane);
    if (w->at.batch == a->batch_size)
      break; /* lengths changed meanwhile */
    p.batch = w->at.batch;
    p.seq = read_sequence(a, p.batch);
    if (w->batch_cut.share == 0 ? take_item(a, w, &p, lane) : take_stretch(a, w, &p, lane))
      return p;
  }
  p.batch = -1;
  return p;
}

/* Once a CTA has taken its last piece, it has told of all its split tiles, and the merge may be launched: it reads of
   them before it waits for the rest. That it sees them follows from the fence and from the L2, past which nobody reads
   them; PTX promises it only behind the wait. */
static __device__ __forceinline__ void end_walk(int lane) {
  if (lane == 0) {
    __threadfence();
    let_next_begin();
  }
  __syncwarp();
}

#endif
