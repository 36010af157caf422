/* Merging: the splits of a decode step, and the parts of fmla_merge. Always in the same order. */
#include "args.h"
#include "../merge_args.h"
#include "rows.cuh"

enum {
  MERGE_THREADS = 256,
  MERGE_WARPS = MERGE_THREADS / 32,
  MERGE_CTAS_PER_SM = 2, /* leaves registers for many loads under way */
  CHUNK = 128,           /* columns that a warp takes at a time: four a lane */
  MAX_CHUNKS = 5,        /* of 576 columns */
  FEW_SPLITS = 16,       /* a warp merges them; more are shared by a team of warps */
  BATCH = 8              /* loads of splits under way */
};

/* ---- The splits of a decode step ------------------------------------------------------------------ */

/* Some sequences, one a thread. Positions are those of the schedule's line; where the batch is cut into items, groups of
   row tiles, counted through the batch. */
typedef struct batch_part {
  int32_t first;               /* sequence */
  int32_t begin, splits_begin; /* its position; splits before it, where sequences have several */
  int32_t ends[MERGE_THREADS], splits_ends[MERGE_THREADS]; /* the same behind each */
} batch_part;

/* Inclusive prefix sums over the CTA's threads. */
static __device__ __forceinline__ int32_t cta_inclusive_scan(int32_t value, int32_t of_warps[MERGE_WARPS], int lane,
                                                             int warp) {
  int32_t sum = warp_inclusive_scan(value, lane);
  __syncthreads();
  if (lane == 31)
    of_warps[warp] = sum;
  __syncthreads();
  for (int w = 0; w < warp; w++)
    sum += of_warps[w];
  return sum;
}

/* Goes on to the part from sequence `first` on. */
static __device__ __forceinline__ void read_part(const decode_args *a, const cut *c, int32_t first, batch_part *part,
                                                 int32_t *of_warps, int lane, int warp) {
  const int32_t thread = (int32_t)threadIdx.x, batch = first + thread;
  const int32_t begin = first == 0 ? 0 : part->ends[MERGE_THREADS - 1];
  const int32_t splits_begin = first == 0 ? 0 : part->splits_ends[MERGE_THREADS - 1];
  int32_t weight = 0, splits = 0;
  if (batch < a->batch_size) {
    const sequence s = read_sequence(a, batch);
    weight = sequence_weight(c, &s);
    if (c->share == 0) {
      splits = weight > s.num_groups ? weight : 0;
      weight = s.num_groups;
    }
  }
  const int32_t end = begin + cta_inclusive_scan(weight, of_warps, lane, warp);
  const int32_t splits_end = splits_begin + cta_inclusive_scan(splits, of_warps, lane, warp);
  part->ends[thread] = end;
  part->splits_ends[thread] = splits_end;
  if (thread == 0) {
    part->first = first;
    part->begin = begin;
    part->splits_begin = splits_begin;
  }
  __syncthreads();
}

/* The sequence of the part that holds a position. */
static __device__ __forceinline__ place find_in_part(const batch_part *part, int32_t position) {
  int low = 0;
#pragma unroll
  for (int step = MERGE_THREADS / 2; step > 0; step /= 2)
    low += part->ends[low + step - 1] <= position ? step : 0;
  place p;
  p.batch = part->first + low;
  p.begin = low == 0 ? part->begin : part->ends[low - 1];
  p.splits_before = low == 0 ? part->splits_begin : part->splits_ends[low - 1];
  return p;
}

typedef struct split_tile_list {
  split_tile tiles[MERGE_THREADS];
  int count;
  int with_few, with_many; /* tiles of up to FEW_SPLITS splits, and of more */
  int team;                /* warps for some columns of a row of the latter */
} split_tile_list;

/* The largest team with which all are under way at once; a CTA has several. */
static __device__ __forceinline__ int choose_team(const decode_args *a, int with_many) {
  const int32_t columns = with_many * a->tile_rows * ceil_div(a->head_dim_v, CHUNK);
  int team = MERGE_WARPS;
  while (team > 1 && columns * team > (int32_t)gridDim.x * MERGE_WARPS)
    team /= 2;
  return team;
}

/* Gathers those that the threads have, in their order. */
static __device__ __forceinline__ void gather_tiles(const decode_args *a, const split_tile *mine,
                                                    split_tile_list *list, int32_t *of_warps, int lane, int warp) {
  const bool is_valid = mine->batch >= 0;
  const int with_many = __syncthreads_count(is_valid && mine->num_splits > FEW_SPLITS);
  const int32_t end = cta_inclusive_scan(is_valid, of_warps, lane, warp);
  if (is_valid)
    list->tiles[end - 1] = *mine;
  if (threadIdx.x == MERGE_THREADS - 1) {
    list->count = end;
    list->with_few = end - with_many;
    list->with_many = with_many;
    list->team = choose_team(a, with_many);
  }
  __syncthreads();
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

/* The rows that a tile has. */
static __device__ __forceinline__ int32_t rows_of_tile(const decode_args *a, const split_tile *tile) {
  return min(tile->seq.seqlen_q * a->group_heads - tile->row_tile * a->tile_rows, a->tile_rows);
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
  const int32_t token = row / a->group_heads;
  const int64_t head = tile->kv_head * a->group_heads + row - token * a->group_heads;
  const bool empty = weights == 0;
  const float lse = empty ? -INFINITY : largest + logf(weights);
  float *lse_at = lse_row(a, tile->batch, tile->seq.q_begin + token, head);
  if (lse_at && writes_lse)
    *lse_at = empty ? empty_lse(a->flags) : lse;
  merged_row end;
  end.out = out_row(a, tile->batch, tile->seq.q_begin + token, head);
  end.scale = empty ? 0 : sink_scale(a->sink, head, lse) / weights;
  return end;
}

static __device__ __forceinline__ void store_columns(const decode_args *a, merged_row end, int32_t column, float4 sum) {
  store_pair(end.out, a->out_dtype, column, sum.x * end.scale, sum.y * end.scale);
  store_pair(end.out, a->out_dtype, column + 2, sum.z * end.scale, sum.w * end.scale);
}

/* Few splits: a warp a row; lane i knows split i's weight. */
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

/* Many: a team of warps some columns of a row, which are `number` of all such; a warp of it takes splits
   member, member + team, ..., and the warps' sums are added in their order. By a whole CTA. */
static __device__ __forceinline__ void merge_by_team(const decode_args *a, const split_tile_list *list, int32_t number,
                                                     int32_t chunks, int32_t team, float4 (*sums)[32],
                                                     float *all_weights, int lane, int warp) {
  const int32_t list_row = quotient(number, chunks), member = warp & (team - 1);
  const int32_t first_column = (number - list_row * chunks) * CHUNK, column = first_column + lane * 4;
  const split_tile *tile = &list->tiles[min(list_row >> a->tile_rows_log2, list->count - 1)];
  const int32_t row = list_row & (a->tile_rows - 1), num_splits = tile->num_splits;
  const bool is_due =
      list_row < list->count * a->tile_rows && num_splits > FEW_SPLITS && row < rows_of_tile(a, tile);
  float4 sum = make_float4(0, 0, 0, 0);
  float weights = 0, largest = -INFINITY;
  for (int32_t begin = member; is_due && begin < num_splits; begin += BATCH * team) {
    float4 o[BATCH];
    float lse[BATCH];
#pragma unroll
    for (int i = 0; i < BATCH; i++) {
      const int32_t split = begin + i * team;
      const int64_t at = partial_row(a, tile, row, split < num_splits ? split : 0);
      lse[i] = split < num_splits ? a->partial_lse[at] : -INFINITY;
      o[i] = make_float4(0, 0, 0, 0);
      if (split < num_splits && column < a->head_dim_v)
        o[i] = *(const float4 *)(a->partial_o + at * a->head_dim_v + column);
    }
    if (begin == member) { /* while the first batch is on its way */
      for (int32_t i = lane; i < num_splits; i += 32)
        largest = fmaxf(largest, a->partial_lse[partial_row(a, tile, row, i)]);
      largest = warp_max(largest);
    }
#pragma unroll
    for (int i = 0; i < BATCH; i++) {
      if (lse[i] == -INFINITY)
        continue;
      const float weight = expf(lse[i] - largest);
      add_weighted(&sum, weight, o[i]);
      weights += weight;
    }
  }
  if (team > 1) {
    sums[warp][lane] = sum;
    if (lane == 0)
      all_weights[warp] = weights;
    __syncthreads();
  }
  if (is_due && member == 0) {
    for (int w = warp + 1; w < warp + team; w++) {
      add_weighted(&sum, 1, sums[w][lane]);
      weights += all_weights[w];
    }
    const merged_row end = end_merged_row(a, tile, row, largest, weights, first_column == 0 && lane == 0);
    if (column < a->head_dim_v)
      store_columns(a, end, column, sum);
  }
  if (team > 1)
    __syncthreads();
}

/* All CTAs together. */
static __device__ __forceinline__ void merge_tiles(const decode_args *a, const split_tile_list *list,
                                                   float4 (*sums)[32], float *weights, int lane, int warp) {
  const int32_t num_rows = list->count * a->tile_rows, chunks = ceil_div(a->head_dim_v, CHUNK);
  const int32_t num_warps = (int32_t)gridDim.x * MERGE_WARPS;
  for (int32_t i = (int32_t)blockIdx.x * MERGE_WARPS + warp; list->with_few > 0 && i < num_rows; i += num_warps) {
    const split_tile *tile = &list->tiles[i >> a->tile_rows_log2];
    if (tile->num_splits <= FEW_SPLITS)
      merge_by_warp(a, tile, i & (a->tile_rows - 1), lane);
  }
  /* The order of adding depends on the team, and so on the whole batch. */
  static_assert(INVARIANT_MAX_SPLITS <= FEW_SPLITS, "teams are not for the batch-invariant mode");
  const int32_t team = list->team, teams = MERGE_WARPS / team;
  for (int32_t i = (int32_t)blockIdx.x * teams; list->with_many > 0 && i < num_rows * chunks;
       i += (int32_t)gridDim.x * teams)
    merge_by_team(a, list, i + warp / team, chunks, team, sums, weights, lane, warp);
}

/* Which tiles are split it works out from the lengths, while the decode kernel still runs. */
extern "C" __global__ void __launch_bounds__(MERGE_THREADS, MERGE_CTAS_PER_SM)
    fmlai_merge_splits(const __grid_constant__ fmlai_cuda_decode_args args) {
  __shared__ batch_part part;
  __shared__ split_tile_list list;
  __shared__ int32_t of_warps[MERGE_WARPS];
  __shared__ float4 sums[MERGE_WARPS][32];
  __shared__ float weights[MERGE_WARPS];
  const decode_args *a = &args;
  const int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
  cut c;
  cut_batch(a, &c, lane);
  /* Positions at which a tile may be split: the shares' ends; or every group of tiles. */
  const int32_t spacing = max(c.share, 1);

  for (int32_t first = 0; first < a->batch_size; first += MERGE_THREADS) {
    read_part(a, &c, first, &part, of_warps, lane, warp);
    const int32_t begin = ceil_div(part.begin, spacing) * a->tiles_together;
    const int32_t end = ceil_div(part.ends[MERGE_THREADS - 1], spacing) * a->tiles_together;
    for (int32_t index = begin; index < end; index += MERGE_THREADS) {
      const int32_t number = (index + (int32_t)threadIdx.x) >> (a->tiles_together - 1);
      const int32_t member = (index + (int32_t)threadIdx.x) & (a->tiles_together - 1);
      split_tile mine;
      mine.batch = -1;
      if (index + (int32_t)threadIdx.x < end) {
        const place at = find_in_part(&part, number * spacing);
        mine = c.share == 0 ? tile_of_items(a, &c, at, number - at.begin, member)
                            : tile_split_at(a, at, c.share, number, member);
      }
      gather_tiles(a, &mine, &list, of_warps, lane, warp);
      begin_in_turn();
      merge_tiles(a, &list, sums, weights, lane, warp);
    }
  }
  begin_in_turn(); /* also where nothing is split: whoever waits for this kernel waits for the one before */
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
  begin_in_turn();
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
