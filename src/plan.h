/*
 * How a decode step is cut into work items. Integers only, and a function of extents and lengths alone: never
 * of threads or timing. The CPU works by it; devices that compute schedules of their own follow it in the
 * batch-invariant mode, whose formula is the API's promise.
 *
 * A sequence has row tiles (tile_rows rows of one KV head: query tokens x heads of the group) and KV splits. An
 * item is (sequence, row tile, split); items are numbered in that order. A sequence of more than one split
 * leaves a partial result per item, numbered in item order, to be merged in split order.
 *
 * In the normal mode splits are s = max(256, round_up(ceil(W / target_items), 64)) tokens long, where W is the
 * sum over the sequences of row tiles times seqlen_k. The sequences that are split then have at most 2 *
 * target_items items.
 *
 * In the batch-invariant mode a sequence alone decides: it has n = max(min(4, ceil(seqlen_k / s)), min(8,
 * ceil(seqlen_k / 4096))) splits of round_up(ceil(seqlen_k / n), 64) tokens, where s is 1024 for up to 32 query
 * rows of a KV head, else 2048: partial results of many rows take longer.
 */
#ifndef FMLAI_PLAN_H
#define FMLAI_PLAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct fmlai_plan_shape {
  int32_t batch_size;
  int32_t max_seqlen_q;
  int64_t total_q; /* query tokens of the batch, or a bound on them */
  int64_t max_seqlen_k;
  int32_t num_kv_heads;
  int32_t group_heads; /* query heads that share a KV head */
  int32_t max_tile_rows;
  int32_t target_items;
  bool batch_invariant;
} fmlai_plan_shape;

/* What a plan of this shape can need at most, whatever the lengths. Never shrinks as the shape grows. */
typedef struct fmlai_plan_limits {
  int32_t tile_rows; /* rows of the largest tile */
  int64_t num_tiles;
  int64_t num_partials;
  size_t index_bytes; /* memory for fmlai_plan_make */
} fmlai_plan_limits;

typedef struct fmlai_plan {
  fmlai_plan_shape shape;
  const int32_t *cache_seqlens;
  const int32_t *cu_seqlens_q; /* or NULL */
  int32_t tile_rows;
  int64_t split_tokens; /* of the normal mode */
  /* Prefix sums over the sequences, batch_size + 1 each, in the caller's memory. */
  int64_t *item_begin;
  int64_t *tile_begin;
  int64_t *partial_begin;
} fmlai_plan;

/* A row tile of a sequence. Row r of it is query token r / group_heads, head r % group_heads of the KV head. */
typedef struct fmlai_plan_tile {
  int32_t batch;
  int32_t kv_head;
  int64_t row_begin; /* within the rows of the KV head */
  int32_t num_rows;
  int64_t q_begin; /* the sequence's first row of a [total_q, ...] tensor; 0 without cu_seqlens_q */
  int32_t seqlen_q;
  int32_t seqlen_k;
  int64_t num_splits;
  int64_t first_partial; /* of split 0, if num_splits > 1 */
} fmlai_plan_tile;

typedef struct fmlai_plan_item {
  fmlai_plan_tile tile;
  int64_t split;
  int64_t kv_begin, kv_end; /* tokens */
} fmlai_plan_item;

fmlai_plan_limits fmlai_plan_limits_of(const fmlai_plan_shape *shape);

/* Lengths must be valid for the shape. `memory` holds index_bytes, aligned to 8; it serves as long as the plan.
 */
void fmlai_plan_make(fmlai_plan *plan, const fmlai_plan_shape *shape, const int32_t *cache_seqlens,
                     const int32_t *cu_seqlens_q, void *memory);

int64_t fmlai_plan_num_items(const fmlai_plan *plan);
int64_t fmlai_plan_num_tiles(const fmlai_plan *plan);
int64_t fmlai_plan_num_partials(const fmlai_plan *plan);

fmlai_plan_tile fmlai_plan_tile_at(const fmlai_plan *plan, int64_t tile);
fmlai_plan_item fmlai_plan_item_at(const fmlai_plan *plan, int64_t item);

#endif
