/* Merging: the splits of a decode step, and the parts of fmla_merge. Always in the same order. */
#include "args.h"
#include "../merge_args.h"
#include "rows.cuh"

enum {
  MERGE_THREADS = FMLAI_CUDA_MERGE_SPLITS_THREADS,
  MERGE_WARPS = MERGE_THREADS / 32,
  TILES_OF_THREAD = 2, /* that a CTA's thread looks at in one go */
  CHUNK = 128,         /* columns of a row that a warp loads at once: four a lane */
  MAX_CHUNKS = 5,      /* of 576 columns */
  FEW_SPLITS = 16,     /* a warp may have a row of them */
  BATCH = 8            /* splits whose loads a warp that has a chunk has under way */
};
static_assert(FEW_SPLITS <= 32 && INVARIANT_MAX_SPLITS <= FEW_SPLITS, "a lane knows a split's weight");

/* ---- The splits of a decode step ------------------------------------------------------------------ */

typedef struct split_tile_list {
  split_tile tiles[TILES_OF_THREAD * MERGE_THREADS];
  int32_t counts[MERGE_WARPS], most_splits[MERGE_WARPS]; /* by the warp that found them */
} split_tile_list;

/* Of a list. */
typedef struct merge_plan {
  int32_t num_tiles;
  int team; /* warps that share a chunk of a row; 0: a warp has a row */
} merge_plan;

/* A warp has a row where that gives it loads enough, or else a chunk of one, or with others some splits of a chunk, as
   many warps as can be under way at once. The order of adding depends on it, and with it on the batch: in the
   batch-invariant mode it may not. */
static __device__ __forceinline__ int choose_team(const decode_args *a, int32_t num_tiles, int32_t most_splits) {
  const int32_t chunks = num_tiles * a->tile_rows * ceil_div(a->head_dim_v, CHUNK);
  const int32_t num_warps = (int32_t)gridDim.x * MERGE_WARPS;
  if (a->flags & FLAG_BATCH_INVARIANT || (chunks > num_warps && most_splits <= FEW_SPLITS))
    return 0;
  int team = MERGE_WARPS;
  while (team > 1 && (team * BATCH / 2 >= most_splits || chunks * team > num_warps))
    team /= 2;
  return team;
}

/* Past the L1, as it may be told just now. What can't be a tile is none: then lengths changed while the decode kernel
   ran, and CTAs saw different ones. */
static __device__ __forceinline__ split_tile read_split_tile(const decode_args *a, int32_t place) {
  const int4 *from = (const int4 *)(a->split_tiles + place);
  const int4 low = __ldcg(from), high = __ldcg(from + 1);
  split_tile t = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
  const int64_t last_slot = t.next_slot + (int64_t)(t.num_splits - 2) * a->tiles_together;
  const bool is_possible =
      t.batch >= 0 && t.batch < a->batch_size && t.kv_head >= 0 && t.kv_head < a->num_kv_heads && t.row_tile >= 0 &&
      (int64_t)t.row_tile * a->tile_rows < (int64_t)t.seqlen_q * a->group_heads &&
      t.q_begin >= 0 && t.seqlen_q >= 0 && t.seqlen_q <= a->max_seqlen_q &&
      t.q_begin <= (a->cu_seqlens_q ? a->total_q - t.seqlen_q : 0) && t.first_slot >= 0 && t.next_slot >= 0 &&
      t.first_slot < a->num_slots && last_slot < a->num_slots;
  if (!is_possible)
    t.num_splits = 0;
  return t;
}

/* The split tiles among what the decode kernel tells of places `first` .. `end` - 1, in an order that depends on nothing
   else. */
static __device__ __forceinline__ merge_plan list_tiles(const decode_args *a, int32_t first, int32_t end,
                                                        split_tile_list *list, int lane, int warp) {
  split_tile mine[TILES_OF_THREAD];
  unsigned found[TILES_OF_THREAD];
  int32_t count = 0, most_splits = 0;
#pragma unroll
  for (int i = 0; i < TILES_OF_THREAD; i++) {
    const int32_t place = first + i * MERGE_THREADS + (int32_t)threadIdx.x;
    mine[i].num_splits = 0;
    if (place < end)
      mine[i] = read_split_tile(a, place);
  }
#pragma unroll
  for (int i = 0; i < TILES_OF_THREAD; i++) {
    found[i] = __ballot_sync(0xffffffffu, mine[i].num_splits > 0);
    count += __popc(found[i]);
    most_splits = max(most_splits, mine[i].num_splits);
  }
  most_splits = __reduce_max_sync(0xffffffffu, most_splits);
  __syncthreads(); /* nobody is at work on the list before */
  if (lane == 0) {
    list->counts[warp] = count;
    list->most_splits[warp] = most_splits;
  }
  __syncthreads();
  int32_t before = 0, all = 0;
#pragma unroll
  for (int w = 0; w < MERGE_WARPS; w++) {
    before += w < warp ? list->counts[w] : 0;
    all += list->counts[w];
    most_splits = max(most_splits, list->most_splits[w]);
  }
#pragma unroll
  for (int i = 0; i < TILES_OF_THREAD; i++) {
    if (mine[i].num_splits > 0)
      list->tiles[before + __popc(found[i] & ((1u << lane) - 1))] = mine[i];
    before += __popc(found[i]);
  }
  __syncthreads();
  return merge_plan{all, choose_team(a, all, most_splits)};
}

/* The rows that a tile has. */
static __device__ __forceinline__ int32_t rows_of_tile(const decode_args *a, const split_tile *tile) {
  return min(tile->seqlen_q * a->group_heads - tile->row_tile * a->tile_rows, a->tile_rows);
}

static __device__ __forceinline__ int64_t partial_row(const decode_args *a, const split_tile *tile,
                                                      int32_t row, int32_t split) {
  const int64_t slot = split == 0 ? tile->first_slot : tile->next_slot + (split - 1) * a->tiles_together;
  return slot * a->tile_rows + row;
}

static __device__ __forceinline__ float warp_max(float value) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2)
    value = fmaxf(value, __shfl_xor_sync(0xffffffffu, value, offset));
  return value;
}

static __device__ __forceinline__ void add_weighted(float4 *sum, float weight, float4 o) {
  sum->x += weight * o.x;
  sum->y += weight * o.y;
  sum->z += weight * o.z;
  sum->w += weight * o.w;
}

/* Where a merged row goes, and its factor. */
typedef struct merged_row {
  void *out;
  float scale;
} merged_row;

/* Also writes the row's lse, if this thread is to. */
static __device__ __forceinline__ merged_row end_merged_row(const decode_args *a, const split_tile *tile,
                                                            int32_t tile_row, float largest, float weights,
                                                            bool writes_lse) {
  const int32_t row = tile->row_tile * a->tile_rows + tile_row;
  const int32_t token = quotient(row, a->group_heads);
  const int64_t head = tile->kv_head * a->group_heads + row - token * a->group_heads;
  const bool empty = weights == 0;
  const float lse = empty ? -INFINITY : largest + logf(weights);
  float *lse_at = lse_row(a, tile->batch, tile->q_begin + token, head);
  if (lse_at && writes_lse)
    *lse_at = empty ? empty_lse(a->flags) : lse;
  merged_row end;
  end.out = out_row(a, tile->batch, tile->q_begin + token, head);
  end.scale = empty ? 0 : sink_scale(a->sink, head, lse) / weights;
  return end;
}

static __device__ __forceinline__ void store_columns(const decode_args *a, merged_row end, int32_t column, float4 sum) {
  store_pair(end.out, a->out_dtype, column, sum.x * end.scale, sum.y * end.scale);
  store_pair(end.out, a->out_dtype, column + 2, sum.z * end.scale, sum.w * end.scale);
}

/* A warp a row of few splits; lane i knows split i's weight. */
static __device__ __forceinline__ void merge_by_warp(const decode_args *a, const split_tile *tile,
                                                     int32_t row, int lane) {
  if (row >= rows_of_tile(a, tile))
    return;
  const float lse =
      lane < tile->num_splits ? a->partial_lse[partial_row(a, tile, row, lane)] : -INFINITY;
  float4 sums[MAX_CHUNKS];
#pragma unroll
  for (int c = 0; c < MAX_CHUNKS; c++)
    sums[c] = make_float4(0, 0, 0, 0);
  const float largest = warp_max(lse);
  const float my_weight = lse == -INFINITY ? 0 : expf(lse - largest);
  float weights = 0;
#pragma unroll 4
  for (int32_t i = 0; i < tile->num_splits; i++) {
    const float weight = __shfl_sync(0xffffffffu, my_weight, i);
    const float *o = a->partial_o + partial_row(a, tile, row, i) * a->head_dim_v + lane * 4;
    weights += weight;
#pragma unroll
    for (int c = 0; c < MAX_CHUNKS; c++)
      if (c * CHUNK + lane * 4 < a->head_dim_v)
        add_weighted(&sums[c], weight, *(const float4 *)(o + c * CHUNK));
  }
  const merged_row end = end_merged_row(a, tile, row, largest, weights, lane == 0);
#pragma unroll
  for (int c = 0; c < MAX_CHUNKS; c++)
    if (c * CHUNK + lane * 4 < a->head_dim_v)
      store_columns(a, end, c * CHUNK + lane * 4, sums[c]);
}

/* A sum of splits of a chunk, weighted relative to a reference, the largest lse among them. */
typedef struct chunk_sum {
  float4 o;
  float reference, weights;
} chunk_sum;

/* Brings it to a reference that is no smaller. */
static __device__ __forceinline__ void raise_reference(chunk_sum *sum, float reference) {
  if (reference == sum->reference)
    return;
  const float factor = expf(sum->reference - reference);
  sum->o.x *= factor;
  sum->o.y *= factor;
  sum->o.z *= factor;
  sum->o.w *= factor;
  sum->weights *= factor;
  sum->reference = reference;
}

/* Splits `first`, `first` + `step`, ... of a row: the lane's columns from `column` on. Each warp has a reference of its own,
   so that nobody waits for all splits' lse before the loads. */
static __device__ __forceinline__ chunk_sum sum_splits(const decode_args *a, const split_tile *tile, int32_t row,
                                                       int32_t column, int32_t first, int32_t step) {
  chunk_sum sum = {make_float4(0, 0, 0, 0), -INFINITY, 0};
  /* All splits but the first are at equal distances. */
  const int64_t between = (int64_t)step * a->tiles_together * a->tile_rows;
  int64_t next = partial_row(a, tile, row, first);
  for (int32_t begin = first; begin < tile->num_splits; begin += BATCH * step) {
    float4 o[BATCH];
    float lse[BATCH], largest = sum.reference;
#pragma unroll
    for (int i = 0; i < BATCH; i++) {
      const int32_t split = begin + i * step;
      lse[i] = -INFINITY;
      if (split < tile->num_splits) {
        lse[i] = a->partial_lse[next];
        o[i] = *(const float4 *)(a->partial_o + next * a->head_dim_v + column);
      }
      next = split == 0 ? partial_row(a, tile, row, step) : next + between;
    }
#pragma unroll
    for (int i = 0; i < BATCH; i++)
      largest = fmaxf(largest, lse[i]);
    raise_reference(&sum, largest);
#pragma unroll
    for (int i = 0; i < BATCH; i++) {
      if (lse[i] == -INFINITY)
        continue; /* no such split, or none of its keys is seen */
      const float weight = expf(lse[i] - largest);
      add_weighted(&sum.o, weight, o[i]);
      sum.weights += weight;
    }
  }
  return sum;
}

/* What a CTA's warps tell each other. */
typedef struct team_sums {
  float4 o[MERGE_WARPS][32];
  float references[MERGE_WARPS], weights[MERGE_WARPS];
} team_sums;

/* A team of warps a chunk of a row, of which each takes some splits; their sums are added in their order. */
static __device__ __forceinline__ void merge_by_team(const decode_args *a, const split_tile_list *list,
                                                     const merge_plan *plan, int32_t number, int32_t chunks,
                                                     team_sums *sums, int lane, int warp) {
  const int32_t team = plan->team, member = warp & (team - 1), list_row = quotient(number, chunks);
  const int32_t first_column = (number - list_row * chunks) * CHUNK, column = first_column + lane * 4;
  const int32_t row = list_row & (a->tile_rows - 1);
  const split_tile *tile = &list->tiles[min(list_row >> a->tile_rows_log2, plan->num_tiles - 1)];
  const bool is_due =
      list_row < plan->num_tiles * a->tile_rows && row < rows_of_tile(a, tile) && column < a->head_dim_v;
  chunk_sum sum = {make_float4(0, 0, 0, 0), -INFINITY, 0};
  if (is_due)
    sum = sum_splits(a, tile, row, column, member, team);
  if (team > 1) {
    if (lane == 0)
      sums->references[warp] = sum.reference;
    __syncthreads();
    float reference = sum.reference;
    for (int w = warp - member; w < warp - member + team; w++)
      reference = fmaxf(reference, sums->references[w]);
    raise_reference(&sum, reference);
    sums->o[warp][lane] = sum.o;
    if (lane == 0)
      sums->weights[warp] = sum.weights;
    __syncthreads();
    for (int w = warp + 1; member == 0 && w < warp + team; w++) {
      add_weighted(&sum.o, 1, sums->o[w][lane]);
      sum.weights += sums->weights[w];
    }
  }
  if (is_due && member == 0) {
    const merged_row end =
        end_merged_row(a, tile, row, sum.reference, sum.weights, first_column == 0 && lane == 0);
    store_columns(a, end, column, sum.o);
  }
}

/* All CTAs together. */
static __device__ __forceinline__ void merge_tiles(const decode_args *a, const split_tile_list *list,
                                                   const merge_plan *plan, team_sums *sums, int lane, int warp) {
  const int32_t num_rows = plan->num_tiles * a->tile_rows, chunks = ceil_div(a->head_dim_v, CHUNK);
  if (plan->team == 0) {
    for (int32_t i = (int32_t)blockIdx.x * MERGE_WARPS + warp; i < num_rows; i += (int32_t)gridDim.x * MERGE_WARPS)
      merge_by_warp(a, &list->tiles[i >> a->tile_rows_log2], i & (a->tile_rows - 1), lane);
    return;
  }
  const int32_t teams = MERGE_WARPS / plan->team;
  for (int32_t i = (int32_t)blockIdx.x * teams; i < num_rows * chunks; i += (int32_t)gridDim.x * teams)
    merge_by_team(a, list, plan, i + warp / plan->team, chunks, sums, lane, warp);
}

extern "C" __global__ void __launch_bounds__(MERGE_THREADS, FMLAI_CUDA_MERGE_SPLITS_CTAS_PER_SM)
    fmlai_merge_splits(const __grid_constant__ fmlai_cuda_decode_args args) {
  __shared__ split_tile_list list;
  __shared__ team_sums sums;
  const decode_args *a = &args;
  const int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
  const int32_t num_rounds = __ldcg(a->num_rounds);
  /* Of the first round there is something in any case: nobody waits for the number of rounds first. */
  for (int32_t first = 0, end = a->num_ctas; first < end; end = num_rounds * a->num_ctas) {
    const merge_plan plan = list_tiles(a, first, end, &list, lane, warp);
    if (first == 0) { /* split tiles are told of by now (end_walk), results not */
      wait_for_turn();
      let_next_begin();
    }
    merge_tiles(a, &list, &plan, &sums, lane, warp);
    first = min(first + TILES_OF_THREAD * MERGE_THREADS, end);
  }
}

/* ---- The parts of fmla_merge -------------------------------------------------------------------------- */

static __device__ __forceinline__ float load_element(const void *base, int32_t dtype, int64_t index) {
  if (dtype == DTYPE_FP32)
    return ((const float *)base)[index];
  const uint16_t code = ((const uint16_t *)base)[index];
  return dtype == DTYPE_BF16 ? __uint_as_float((uint32_t)code << 16) : unpack_fp16(code);
}

static __device__ __forceinline__ void store_element(void *base, int32_t dtype, int64_t index, float value) {
  if (dtype == DTYPE_FP32)
    ((float *)base)[index] = value;
  else
    ((uint16_t *)base)[index] = (uint16_t)(dtype == DTYPE_BF16 ? pack_bf16(value, 0) : pack_fp16(value, 0));
}

extern "C" __global__ void __launch_bounds__(FMLAI_CUDA_MERGE_THREADS)
    fmlai_merge_parts(const __grid_constant__ fmlai_cuda_merge_args args) {
  const fmlai_cuda_merge_args *a = &args;
  const int64_t num_rows = (int64_t)a->batch_size * a->seqlen_q * a->num_q_heads;
  wait_for_turn();
  let_next_begin();
  const float empty = empty_lse(a->flags);
  for (int64_t row = blockIdx.x; row < num_rows; row += gridDim.x) {
    const int64_t head = row % a->num_q_heads, token = row / a->num_q_heads % a->seqlen_q;
    const int64_t batch = row / a->num_q_heads / a->seqlen_q;
    const float *lse_parts = a->lse_parts + batch * a->lse_parts_stride_batch + token * a->lse_parts_stride_token +
                             head * a->lse_parts_stride_head;
    const int64_t out_part = batch * a->out_parts_stride_batch + token * a->out_parts_stride_token +
                             head * a->out_parts_stride_head;
    const int64_t out = batch * a->out_stride_batch + token * a->out_stride_token + head * a->out_stride_head;

    /* Every thread goes over the parts' lse by itself: they are few, and in the cache. */
    float largest = -INFINITY, weights = 0;
    for (int32_t i = 0; i < a->num_parts; i++) {
      const float lse = lse_parts[i * a->lse_parts_stride_part];
      if (lse != empty)
        largest = fmaxf(largest, lse);
    }
    for (int32_t i = 0; i < a->num_parts; i++) {
      const float lse = lse_parts[i * a->lse_parts_stride_part];
      if (lse != empty && lse != -INFINITY)
        weights += expf(lse - largest);
    }
    const bool none = weights == 0;
    const float lse = none ? empty : largest + logf(weights);
    const float scale = none ? 0 : sink_scale(a->sink, head, lse) / weights;
    for (int32_t column = (int32_t)threadIdx.x; column < a->head_dim_v; column += FMLAI_CUDA_MERGE_THREADS) {
      float sum = 0;
      for (int32_t i = 0; i < a->num_parts; i++) {
        const float part_lse = lse_parts[i * a->lse_parts_stride_part];
        if (part_lse != empty && part_lse != -INFINITY)
          sum += expf(part_lse - largest) *
                 load_element(a->out_parts, a->part_dtype, i * a->out_parts_stride_part + out_part + column);
      }
      store_element(a->out, a->out_dtype, out + column, none ? 0 : sum * scale);
    }
    if (a->lse && threadIdx.x == 0)
      a->lse[batch * a->lse_stride_batch + token * a->lse_stride_token + head * a->lse_stride_head] = lse;
  }
}
