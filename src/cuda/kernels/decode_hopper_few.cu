/* The Hopper decode kernel for few query rows of a KV head: what its variants share, and each by including the body. */
#include "hopper_feed.cuh"

#define X(rows, boxes) BOXES_##rows = boxes,
enum { FMLAI_CUDA_HOPPER_FEW_VARIANTS(X) };
#undef X

enum {
  KEY_BOXES = 9,   /* of 64 columns, in a tile of 64 keys */
  VALUE_BOXES = 8, /* of them, the first */
  HALF_BOXES = 4,  /* whose output a warpgroup writes */
};

typedef struct few_control {
  uint64_t full[HOPPER_FEW_MAX_BOXES], empty[HOPPER_FEW_MAX_BOXES]; /* of the ring's boxes */
  uint64_t started[4]; /* of four tiles in turns: the copy of the first box is on its way */
  hopper_feed feed;
  float largest[2][4][HOPPER_FEW_MAX_ROWS]; /* of a tile's scores, by warp of a warpgroup, where a reference may move */
  float sums[2][4][HOPPER_FEW_MAX_ROWS];    /* of a piece's probabilities, by warp */
  float references[2][HOPPER_FEW_MAX_ROWS];
  float factors[2][HOPPER_FEW_MAX_ROWS]; /* of a warpgroup's output */
  void *targets[HOPPER_FEW_MAX_ROWS];    /* where rows go; NULL: there is no such row */
} few_control;

static_assert(sizeof(few_control) <= HOPPER_FEW_CONTROL_BYTES, "shared memory");

/* By a thread of each of `num_shares` warps. */
static __device__ __forceinline__ void init_barriers(few_control *c, int num_boxes, int share, int num_shares) {
#pragma unroll 1
  for (int i = share; i < num_boxes; i += num_shares) {
    barrier_init(shared_address(&c->full[i]), 1);
    barrier_init(shared_address(&c->empty[i]), MATH_WARPS / 2);
  }
  if (share == 0) {
    init_feed(&c->feed);
    for (int i = 0; i < 4; i++)
      barrier_init(shared_address(&c->started[i]), 1);
  }
  barrier_init_fence();
}

/* ---- The ring of boxes ------------------------------------------------------------------------------- */

/* A place in it, and the parity of its round. Boxes of all tiles of all pieces lie one behind the other. */
typedef struct ring_place {
  int32_t box;
  uint32_t parity;
} ring_place;

static __device__ __forceinline__ ring_place boxes_on(ring_place p, int boxes, int num_boxes) {
  p.box += boxes;
  if (p.box >= num_boxes) {
    p.box -= num_boxes;
    p.parity ^= 1;
  }
  return p;
}

/* Walks the schedule, tells the others of each piece, and brings its keys. By one warp. */
static __device__ __forceinline__ void feed_boxes(const decode_args *a, const fmlai_cuda_tensor_map *map,
                                                  few_control *control, uint32_t ring, int num_boxes, int lane) {
  if (lane == 0)
    prefetch_map(map);
  walk w = begin_walk(a, (int32_t)blockIdx.x, lane);
  named_barrier(FEEDER, LOADERS + 32); /* barriers are ready: so late, as the lengths are long in coming */
  const int32_t boxes = BLOCK_KEYS / a->box_keys;
  ring_place to = {0, 0};
  uint32_t tile = 0; /* counted on through all pieces */
  for (uint32_t number = 0;; number++) {
    const piece part = next_piece(a, &w, lane);
    if (part.batch < 0)
      end_walk(lane);
    publish(&control->feed, number, &part, lane);
    if (part.batch < 0)
      return;
    const int32_t key_begin = part.block_begin * BLOCK_KEYS;
    const int32_t key_end = min(part.block_end * BLOCK_KEYS, part.seq.seqlen_k);
    int32_t pages = 0, next_pages = pages_of_boxes(a, &part, key_begin, key_end, lane);
    int32_t at = 0; /* the lane that knows the tile's first page */
    for (int32_t key = key_begin; key < key_end; key += BLOCK_KEYS, tile++) {
      if (at == 0) {
        pages = next_pages;
        next_pages = pages_of_boxes(a, &part, key + 32 * a->box_keys, key_end, lane);
      }
      int32_t tile_pages[4];
#pragma unroll
      for (int i = 0; i < 4; i++)
        tile_pages[i] = __shfl_sync(0xffffffffu, pages, at + i);
      at = (at + boxes) % 32;
      const int32_t slot = key % a->page_size;
      /* Lane i brings box i, once what lay in its place is handed back. */
      const ring_place place = boxes_on(to, min(lane, KEY_BOXES - 1), num_boxes);
      const uint32_t full = shared_address(&control->full[place.box]), empty = shared_address(&control->empty[place.box]);
      bool is_due = lane < KEY_BOXES;
      while (__any_sync(0xffffffffu, is_due))
        if (is_due && barrier_has_passed(empty, place.parity ^ 1)) {
          if (lane == 0)
            barrier_arrive(shared_address(&control->started[tile % 4]));
          barrier_arrive_expecting(full, BOX_BYTES);
          copy_columns(a, map, ring + (place.box - lane) * BOX_BYTES, full, lane, tile_pages, slot, part.kv_head,
                       false);
          is_due = false;
        }
      to = boxes_on(to, KEY_BOXES, num_boxes);
      __syncwarp();
    }
  }
}

/* ---- The end of a piece ------------------------------------------------------------------------------ */

/* Row r: its lse, where it goes, and both warpgroups' factors. By one thread, when their sums are there. */
static __device__ __forceinline__ void end_few_row(const decode_args *a, const piece *part, const piece_rows *rows,
                                                   int r, int max_rows, few_control *c) {
  c->targets[r] = NULL;
  if (r >= rows->count)
    return;
  float sums[2];
#pragma unroll
  for (int g = 0; g < 2; g++)
    sums[g] = (c->sums[g][0][r] + c->sums[g][1][r]) + (c->sums[g][2][r] + c->sums[g][3][r]);
  const float reference = fmaxf(c->references[0][r], c->references[1][r]);
  const float factor0 = growth(c->references[0][r], reference), factor1 = growth(c->references[1][r], reference);
  const float total = sums[0] * factor0 + sums[1] * factor1;
  const float f = end_row(a, part, rows, r, max_rows, reference, total, true);
  int32_t dtype;
  c->targets[r] = row_target(a, part, rows, r, max_rows, &dtype);
  c->factors[0][r] = factor0 * f;
  c->factors[1][r] = factor1 * f;
}

#define KERNEL_NAME fmlai_decode_hopper_bf16_rows16
#define ROWS 16
#define NUM_BOXES BOXES_16
#define TYPE bf16
#define PACK pack_bf16
#include "decode_hopper_few.cuh"

#define KERNEL_NAME fmlai_decode_hopper_fp16_rows16
#define ROWS 16
#define NUM_BOXES BOXES_16
#define TYPE f16
#define PACK pack_fp16
#include "decode_hopper_few.cuh"

#define KERNEL_NAME fmlai_decode_hopper_bf16_rows32
#define ROWS 32
#define NUM_BOXES BOXES_32
#define TYPE bf16
#define PACK pack_bf16
#include "decode_hopper_few.cuh"

#define KERNEL_NAME fmlai_decode_hopper_fp16_rows32
#define ROWS 32
#define NUM_BOXES BOXES_32
#define TYPE f16
#define PACK pack_fp16
#include "decode_hopper_few.cuh"
