/*
 * The schedule, computed where the lengths are, by every CTA for itself.
 *
 * Normal mode, even shares: the row tiles of all sequences stand on a line, each as long as its blocks of 64 keys plus
 * OVERHEAD_BLOCKS for its beginning and end; the line is cut into num_shares equal shares, one for each CTA. A CTA
 * meets at most one tile that another began and one that another goes on with: two partial results.
 * Share c's partial of a tile begun before is slot c, of a tile it begins slot num_shares + c.
 *
 * Batch-invariant mode: src/plan.h's formula gives the splits of a tile; CTAs take items c, c + num_shares, ...
 */
#ifndef FMLAI_CUDA_SCHEDULE_CUH
#define FMLAI_CUDA_SCHEDULE_CUH

#include "args.h"

#include <stdint.h>

enum { BLOCK_KEYS = 64, OVERHEAD_BLOCKS = 2, INVARIANT_MIN_SPLIT_KEYS = 1024, INVARIANT_MAX_SPLITS = 8 };

#define FLAG_CAUSAL 0x1u
#define FLAG_BATCH_INVARIANT 0x2u
#define FLAG_EMPTY_LSE_POS_INF 0x4u

typedef fmlai_cuda_decode_args decode_args;

/* a / b for a >= 0 and b > 0; most are small, and 32 bits divide several times faster. */
static __device__ __forceinline__ int64_t quotient(int64_t a, int64_t b) {
  return ((uint64_t)(a | b) >> 32) == 0 ? (int64_t)((uint32_t)a / (uint32_t)b) : a / b;
}

static __device__ __forceinline__ int64_t ceil_div64(int64_t a, int64_t b) { return quotient(a + b - 1, b); }

static __device__ __forceinline__ int32_t ceil_div(int32_t a, int32_t b) { return (a + b - 1) / b; }

/* The host has seen to it that query tokens x heads stay below 2^31, and seqlen_k + BLOCK_KEYS too. */

/* ---- Sequences: every value that comes from memory is clamped -------------------------------------- */

typedef struct sequence {
  int64_t q_begin; /* first row of q, out, lse; 0 without cu_seqlens_q */
  int32_t seqlen_q;
  int32_t seqlen_k;
  int32_t tiles_per_head;
  int32_t num_tiles;
  int32_t num_blocks;
} sequence;

static __device__ __forceinline__ int64_t clamp64(int64_t value, int64_t low, int64_t high) {
  return value < low ? low : value > high ? high : value;
}

static __device__ sequence read_sequence(const decode_args *a, int32_t batch) {
  sequence s;
  s.q_begin = 0;
  s.seqlen_q = a->max_seqlen_q;
  if (a->cu_seqlens_q) {
    s.q_begin = clamp64(a->cu_seqlens_q[batch], 0, a->total_q);
    const int64_t end = clamp64(a->cu_seqlens_q[batch + 1], s.q_begin, a->total_q);
    s.seqlen_q = (int32_t)clamp64(end - s.q_begin, 0, a->max_seqlen_q);
  }
  s.seqlen_k = (int32_t)clamp64(a->cache_seqlens[batch], 0, a->max_seqlen_k);
  s.tiles_per_head = ceil_div(s.seqlen_q * a->group_heads, a->tile_rows);
  s.num_tiles = s.tiles_per_head * a->num_kv_heads;
  s.num_blocks = (s.seqlen_k + BLOCK_KEYS - 1) / BLOCK_KEYS;
  return s;
}

static __device__ __forceinline__ int32_t invariant_split_blocks(int32_t num_blocks, int32_t seqlen_k) {
  const int32_t wanted = (seqlen_k + INVARIANT_MIN_SPLIT_KEYS - 1) / INVARIANT_MIN_SPLIT_KEYS;
  const int32_t splits = wanted < INVARIANT_MAX_SPLITS ? wanted : INVARIANT_MAX_SPLITS;
  if (splits <= 1)
    return num_blocks > 1 ? num_blocks : 1;
  return ceil_div(ceil_div(seqlen_k, splits), BLOCK_KEYS);
}

/* Length on the line, or number of items. */
static __device__ __forceinline__ int64_t sequence_weight(const decode_args *a, const sequence *s) {
  if ((a->flags & FLAG_BATCH_INVARIANT) == 0)
    return (int64_t)s->num_tiles * (s->num_blocks + OVERHEAD_BLOCKS);
  const int32_t blocks = invariant_split_blocks(s->num_blocks, s->seqlen_k);
  const int32_t splits = s->num_blocks > blocks ? ceil_div(s->num_blocks, blocks) : 1;
  return (int64_t)s->num_tiles * splits;
}

/* ---- The whole batch, by one warp -------------------------------------------------------------------- */

static __device__ __forceinline__ int64_t warp_sum(int64_t value) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2)
    value += __shfl_xor_sync(0xffffffffu, value, offset);
  return value;
}

static __device__ __forceinline__ int64_t warp_inclusive_scan(int64_t value, int lane) {
#pragma unroll
  for (int offset = 1; offset < 32; offset *= 2) {
    const int64_t before = __shfl_up_sync(0xffffffffu, value, offset);
    if (lane >= offset)
      value += before;
  }
  return value;
}

static __device__ int64_t batch_weight(const decode_args *a, int lane) {
  int64_t sum = 0;
  for (int32_t i = lane; i < a->batch_size; i += 32) {
    const sequence s = read_sequence(a, i);
    sum += sequence_weight(a, &s);
  }
  return warp_sum(sum);
}

/* Where a position of the line, or an item, lies. */
typedef struct place {
  int32_t batch; /* batch_size: behind the last */
  int64_t begin;        /* weight of all sequences before it */
  int64_t tiles_before; /* their row tiles */
  int64_t slots_before; /* batch-invariant: their partial slots */
} place;

/* Moves on to the sequence that holds `target`, from a place before it. */
static __device__ place find_place(const decode_args *a, place from, int64_t target, int lane) {
  const bool invariant = (a->flags & FLAG_BATCH_INVARIANT) != 0;
  place p = from;
  while (p.batch < a->batch_size) {
    const int32_t i = p.batch + lane;
    int64_t weight = 0, tiles = 0, slots = 0;
    if (i < a->batch_size) {
      const sequence s = read_sequence(a, i);
      weight = sequence_weight(a, &s);
      tiles = s.num_tiles;
      slots = invariant && weight > tiles ? weight : 0;
    }
    const int64_t weight_end = warp_inclusive_scan(weight, lane);
    const unsigned beyond = __ballot_sync(0xffffffffu, p.begin + weight_end > target);
    const int last = beyond ? __ffs(beyond) - 1 : 32; /* lanes before it are passed */
    const int64_t tiles_end = warp_inclusive_scan(tiles, lane);
    const int64_t slots_end = warp_inclusive_scan(slots, lane);
    if (last > 0) {
      p.begin += __shfl_sync(0xffffffffu, weight_end, last - 1);
      p.tiles_before += __shfl_sync(0xffffffffu, tiles_end, last - 1);
      p.slots_before += __shfl_sync(0xffffffffu, slots_end, last - 1);
    }
    p.batch = p.batch + last < a->batch_size ? p.batch + last : a->batch_size;
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
  int32_t tile;  /* of the sequence's */
  int32_t block_begin, block_end;
  int32_t slot; /* of the partial result; -1: the tile is not split */
} piece;

/* The state of a CTA's walk over its share; the same in all lanes of its warp. */
typedef struct walk {
  int64_t position; /* on the line, or the next item */
  int64_t end;      /* of the share, or the number of items */
  int64_t share;    /* length of a share */
  place at;
} walk;

static __device__ walk begin_walk(const decode_args *a, int32_t cta, int lane) {
  walk w;
  const int64_t weight = batch_weight(a, lane);
  const bool invariant = (a->flags & FLAG_BATCH_INVARIANT) != 0;
  w.share = ceil_div64(weight, a->num_shares);
  w.position = invariant ? cta : w.share * cta;
  w.end = invariant ? weight : w.position + w.share < weight ? w.position + w.share : weight;
  w.at = (place){0, 0, 0, 0};
  return w;
}

/* The next piece of the walk. When it is the first of a split tile, `*split` tells of the tile, else its batch is -1. */
static __device__ piece next_piece(const decode_args *a, walk *w, int32_t cta, int lane, fmlai_cuda_split_tile *split,
                                   int32_t *split_index) {
  piece p;
  split->batch = -1;
  *split_index = -1;
  while (w->position < w->end) {
    w->at = find_place(a, w->at, w->position, lane);
    p.batch = w->at.batch;
    p.seq = read_sequence(a, p.batch);
    const int64_t inside = w->position - w->at.begin;
    if ((a->flags & FLAG_BATCH_INVARIANT) != 0) {
      const int32_t blocks = invariant_split_blocks(p.seq.num_blocks, p.seq.seqlen_k);
      const int32_t splits = p.seq.num_blocks > blocks ? ceil_div(p.seq.num_blocks, blocks) : 1;
      p.tile = (int32_t)quotient(inside, splits);
      const int32_t number = (int32_t)(inside - (int64_t)p.tile * splits);
      p.block_begin = number * blocks;
      p.block_end = p.block_begin + blocks < p.seq.num_blocks ? p.block_begin + blocks : p.seq.num_blocks;
      const int64_t first = w->at.slots_before + (int64_t)p.tile * splits;
      p.slot = splits > 1 ? (int32_t)(first + number) : -1;
      if (number == 0) {
        *split_index = (int32_t)(w->at.tiles_before + p.tile);
        if (splits > 1)
          *split = (fmlai_cuda_split_tile){p.batch, p.tile, (int32_t)first, (int32_t)first + 1, splits};
      }
      w->position += a->num_shares;
      return p;
    }

    const int32_t length = p.seq.num_blocks + OVERHEAD_BLOCKS;
    p.tile = (int32_t)quotient(inside, length);
    const int64_t tile_begin = w->at.begin + (int64_t)p.tile * length;
    const int64_t keys_begin = tile_begin + OVERHEAD_BLOCKS; /* the place of block 0 */
    const int64_t tile_end = tile_begin + length;
    const int64_t from = w->position;
    const int64_t to = w->end < tile_end ? w->end : tile_end;
    w->position = to;
    if (p.seq.num_blocks == 0) {
      /* Nothing to read, but its rows are to be written: by the share that holds its beginning. */
      if (from > tile_begin)
        continue;
      p.block_begin = p.block_end = 0;
      p.slot = -1;
      return p;
    }
    if (to <= keys_begin)
      continue; /* only overhead in this share */
    p.block_begin = from > keys_begin ? (int32_t)(from - keys_begin) : 0;
    p.block_end = (int32_t)(to - keys_begin);
    const bool begins = p.block_begin == 0, ends = p.block_end == p.seq.num_blocks;
    p.slot = begins && ends ? -1 : begins ? a->num_shares + cta : cta;
    if (begins && !ends) {
      const int32_t last = (int32_t)quotient(tile_end - 1, w->share);
      *split_index = cta;
      *split = (fmlai_cuda_split_tile){p.batch, p.tile, a->num_shares + cta, cta + 1, last - cta + 1};
    }
    return p;
  }
  p.batch = -1;
  return p;
}

#endif
