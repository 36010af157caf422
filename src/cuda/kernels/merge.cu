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
  FEW_SPLITS = 16,       /* a warp merges them; more are shared by the warps of a CTA */
  BATCH = 8              /* loads of splits under way */
};

/* ---- The splits of a decode step ------------------------------------------------------------------ */

/* The tiles of some entries of split_tiles that tell of one. */
typedef struct split_tile_list {
  fmlai_cuda_split_tile tiles[MERGE_THREADS];
  int count;
  bool has_few, has_many; /* tiles of up to FEW_SPLITS splits, and of more */
} split_tile_list;

/* Gathers those of the entries from `first` on, every thread looking at one. */
static __device__ __forceinline__ void gather_tiles(const decode_args *a, int32_t first, split_tile_list *list) {
  __shared__ int counts[MERGE_WARPS];
  const int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
  const int32_t index = first + (int32_t)threadIdx.x;
  fmlai_cuda_split_tile tile = {-1, 0, 0, 0, 0, 0};
  if (index < a->num_split_tiles)
    tile = a->split_tiles[index];
  const bool valid = tile.batch >= 0;
  const unsigned valid_lanes = __ballot_sync(0xffffffffu, valid);
  /* These barriers also say that the tiles gathered before are done with. */
  const bool has_few = __syncthreads_or(valid && tile.num_splits <= FEW_SPLITS) != 0;
  const bool has_many = __syncthreads_or(valid && tile.num_splits > FEW_SPLITS) != 0;
  if (lane == 0)
    counts[warp] = __popc(valid_lanes);
  __syncthreads();
  int at = __popc(valid_lanes & ((1u << lane) - 1)), total = 0;
  for (int w = 0; w < MERGE_WARPS; w++) {
    at += w < warp ? counts[w] : 0;
    total += counts[w];
  }
  if (valid)
    list->tiles[at] = tile;
  if (threadIdx.x == 0) {
    list->count = total;
    list->has_few = has_few;
    list->has_many = has_many;
  }
  __syncthreads();
}

static __device__ __forceinline__ int64_t partial_row(const decode_args *a, const fmlai_cuda_split_tile *tile,
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
static __device__ __forceinline__ int32_t rows_of_tile(const decode_args *a, const fmlai_cuda_split_tile *tile,
                                                       const sequence *q) {
  return min(q->seqlen_q * a->group_heads - tile->row_tile * a->tile_rows, a->tile_rows);
}

/* Where a merged row goes, and its factor. */
typedef struct merged_row {
  void *out;
  float scale;
} merged_row;

/* Also writes the row's lse, if this thread is to. */
static __device__ __forceinline__ merged_row end_merged_row(const decode_args *a, const fmlai_cuda_split_tile *tile,
                                                            const sequence *q, int32_t tile_row, float largest,
                                                            float weights, bool writes_lse) {
  const int32_t row = tile->row_tile * a->tile_rows + tile_row;
  const int32_t token = row / a->group_heads;
  const int64_t head = tile->kv_head * a->group_heads + row - token * a->group_heads;
  const bool empty = weights == 0;
  const float lse = empty ? -INFINITY : largest + logf(weights);
  float *lse_at = lse_row(a, tile->batch, q->q_begin + token, head);
  if (lse_at && writes_lse)
    *lse_at = empty ? empty_lse(a->flags) : lse;
  merged_row end;
  end.out = out_row(a, tile->batch, q->q_begin + token, head);
  end.scale = empty ? 0 : sink_scale(a->sink, head, lse) / weights;
  return end;
}

static __device__ __forceinline__ void store_columns(const decode_args *a, merged_row end, int32_t column, float4 sum) {
  store_pair(end.out, a->out_dtype, column, sum.x * end.scale, sum.y * end.scale);
  store_pair(end.out, a->out_dtype, column + 2, sum.z * end.scale, sum.w * end.scale);
}

/* Few splits: a warp a row; lane i knows split i's weight. */
static __device__ __forceinline__ void merge_by_warp(const decode_args *a, const fmlai_cuda_split_tile *tile,
                                                     int32_t row, int lane) {
  const sequence q = read_sequence(a, tile->batch);
  if (row >= rows_of_tile(a, tile, &q))
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
  const merged_row end = end_merged_row(a, tile, &q, row, largest, weights, lane == 0);
#pragma unroll
  for (int c = 0; c < MAX_CHUNKS; c++)
    if (c * CHUNK + lane * 4 < a->head_dim_v)
      store_columns(a, end, c * CHUNK + lane * 4, sums[c]);
}

/* Many: a CTA some columns of a row; warp w takes splits w, w + 8, ..., and the warps' sums are added in their order. */
static __device__ __forceinline__ void merge_by_cta(const decode_args *a, const fmlai_cuda_split_tile *tile, int32_t row,
                                                    int32_t first_column, float4 (*sums)[32], float *all_weights,
                                                    int lane, int warp) {
  const sequence q = read_sequence(a, tile->batch);
  if (row >= rows_of_tile(a, tile, &q))
    return;
  const int32_t column = first_column + lane * 4, num_splits = tile->num_splits;
  float4 sum = make_float4(0, 0, 0, 0);
  float weights = 0, largest = -INFINITY;
  for (int32_t begin = warp; begin < num_splits || begin == warp; begin += BATCH * MERGE_WARPS) {
    float4 o[BATCH];
    float lse[BATCH];
#pragma unroll
    for (int i = 0; i < BATCH; i++) {
      const int32_t split = begin + i * MERGE_WARPS;
      const int64_t at = partial_row(a, tile, row, split < num_splits ? split : 0);
      lse[i] = split < num_splits ? a->partial_lse[at] : -INFINITY;
      o[i] = make_float4(0, 0, 0, 0);
      if (split < num_splits && column < a->head_dim_v)
        o[i] = *(const float4 *)(a->partial_o + at * a->head_dim_v + column);
    }
    if (begin == warp) { /* while the first batch is on its way */
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
  sums[warp][lane] = sum;
  if (lane == 0)
    all_weights[warp] = weights;
  __syncthreads();
  if (warp == 0) {
    for (int w = 1; w < MERGE_WARPS; w++) {
      add_weighted(&sum, 1, sums[w][lane]);
      weights += all_weights[w];
    }
    const merged_row end = end_merged_row(a, tile, &q, row, largest, weights, first_column == 0 && lane == 0);
    if (column < a->head_dim_v)
      store_columns(a, end, column, sum);
  }
  __syncthreads();
}

extern "C" __global__ void __launch_bounds__(MERGE_THREADS, MERGE_CTAS_PER_SM)
    fmlai_merge_splits(const __grid_constant__ fmlai_cuda_decode_args args) {
  __shared__ split_tile_list list;
  __shared__ float4 sums[MERGE_WARPS][32];
  __shared__ float weights[MERGE_WARPS];
  const decode_args *a = &args;
  const int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
  const int32_t chunks = ceil_div(a->head_dim_v, CHUNK);
  wait_for_dependencies();

  for (int32_t first = 0; first < a->num_split_tiles; first += MERGE_THREADS) {
    gather_tiles(a, first, &list);
    const int32_t num_rows = list.count * a->tile_rows;
    const int32_t num_warps = (int32_t)gridDim.x * MERGE_WARPS;
    for (int32_t i = (int32_t)blockIdx.x * MERGE_WARPS + warp; list.has_few && i < num_rows; i += num_warps) {
      const fmlai_cuda_split_tile *tile = &list.tiles[i / a->tile_rows];
      if (tile->num_splits <= FEW_SPLITS)
        merge_by_warp(a, tile, i % a->tile_rows, lane);
    }
    for (int32_t i = (int32_t)blockIdx.x; list.has_many && i < num_rows * chunks; i += (int32_t)gridDim.x) {
      const fmlai_cuda_split_tile *tile = &list.tiles[i / chunks / a->tile_rows];
      if (tile->num_splits > FEW_SPLITS)
        merge_by_cta(a, tile, i / chunks % a->tile_rows, i % chunks * CHUNK, sums, weights, lane, warp);
    }
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
