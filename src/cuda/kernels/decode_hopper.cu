/* The Hopper decode kernel: what its four forms share, and each by including the body once: two types, alone and in
   pairs. */
#include "hopper_feed.cuh"

enum {
  HALF_BYTES = 4 * BOX_BYTES,
  ROPE_BOX = 8,
  /* Parts of a stage, each handed back by itself */
  OWN_HALF = 0, /* of the columns: the owner's */
  OTHER_HALF,
  ROPE_PART,
  NUM_PARTS
};

/* Registers of threads that feed, and of those that compute, which more make a little faster. Compilers before CUDA 12.8
   take more for the feeder. */
#if __CUDACC_VER_MAJOR__ * 100 + __CUDACC_VER_MINOR__ < 1208
#define FEED_REGISTERS 72
#define MATH_REGISTERS 216
#else
#define FEED_REGISTERS 56
#define MATH_REGISTERS 224
#endif

typedef struct hopper_control {
  uint64_t full[2][9];  /* of a stage's boxes */
  uint64_t empty[2][NUM_PARTS];
  uint64_t ready[2];    /* probabilities and reference of the stage's tile */
  hopper_feed feed;
  float moved[2];                  /* by owner: not 0 if a row's reference is not that of the tile before */
  float reference[2][HOPPER_ROWS]; /* by owner */
  float sums[2][2][HOPPER_ROWS];   /* of pieces by turns: one may be read still when the other is written */
} hopper_control;

static_assert(sizeof(hopper_control) <= HOPPER_CONTROL_BYTES, "shared memory");

static __device__ __forceinline__ void init_barriers(hopper_control *c, bool is_pair) {
  for (int stage = 0; stage < 2; stage++) {
    for (int i = 0; i < 9; i++)
      barrier_init(shared_address(&c->full[stage][i]), 1);
    for (int i = 0; i < NUM_PARTS; i++)
      barrier_init(shared_address(&c->empty[stage][i]), MATH_WARPS / 2 * (is_pair ? 2 : 1));
    barrier_init(shared_address(&c->ready[stage]), MATH_WARPS / 2);
  }
  init_feed(&c->feed);
  barrier_init_fence();
}

/* ---- Feeding: warpgroup 2 ---------------------------------------------------------------------------- */

/* Who brings a box to both CTAs of a pair. */
static __device__ __forceinline__ int bringer(int owner, int box) { return box == ROPE_BOX ? owner : box % 2; }

/* Pairs over the same keys share in asking the L2 for them: so whoever is ahead of the others waits for memory, and all
   find the same keys there. */
static __device__ __forceinline__ bool asks_for(const decode_args *a, int box) {
  uint32_t cta;
  asm volatile("mov.u32 %0, %%ctaid.x;" : "=r"(cta)); /* each time anew: registers are full */
  return (((uint32_t)box ^ cta) & (a->tiles_together - 2)) == 0;
}

static __device__ __forceinline__ void bring_box(const decode_args *a, const fmlai_cuda_tensor_map *map,
                                                 hopper_control *control, uint32_t stage, int owner, int box,
                                                 const int32_t pages[4], int32_t slot, int32_t kv_head, bool is_pair,
                                                 int rank) {
  const uint32_t full = shared_address(&control->full[owner][box]);
  barrier_arrive_expecting(full, BOX_BYTES);
  if (!is_pair || bringer(owner, box) == rank)
    copy_columns(a, map, stage, full, box, pages, slot, kv_head, is_pair);
}

/* Walks the schedule, tells the others of each piece, and brings its keys. By one warp. A pair's two have the same pieces
   but for the row tile; what both have handed back, each brings half of to both. */
static __device__ __forceinline__ void feed_keys(const decode_args *a, const fmlai_cuda_tensor_map *map,
                                                 hopper_control *control, uint32_t base, int lane, bool is_pair) {
  const int rank = is_pair ? rank_in_pair() : 0;
  if (lane == 0)
    prefetch_map(map);
  walk w = begin_walk(a, (int32_t)blockIdx.x, lane);
  const int32_t boxes = BLOCK_KEYS / a->box_keys;
  uint32_t parities = 3; /* of the stages' rounds before, a bit each */
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
    int owner = 0;
    for (int32_t key = key_begin; key < key_end; key += BLOCK_KEYS, owner ^= 1) {
      if (at == 0) {
        pages = next_pages;
        next_pages = pages_of_boxes(a, &part, key + 32 * a->box_keys, key_end, lane);
      }
      int32_t tile_pages[4];
#pragma unroll
      for (int i = 0; i < 4; i++)
        tile_pages[i] = __shfl_sync(0xffffffffu, pages, at + i);
      at = (at + boxes) % 32;
      const uint32_t stage = base + HOPPER_STAGE_OFFSET(owner), parity = parities >> owner & 1;
      const int32_t slot = key % a->page_size;
      parities ^= 1u << owner;
      /* A lane starts a box: a loop over boxes in one lane takes more than twice as long. */
      barrier_wait(shared_address(&control->empty[owner][ROPE_PART]), parity);
      if (lane == ROPE_BOX)
        bring_box(a, map, control, stage, owner, lane, tile_pages, slot, part.kv_head, is_pair, rank);
      __syncwarp();
      barrier_wait(shared_address(&control->empty[owner][OWN_HALF]), parity);
      if (lane / 4 == owner)
        bring_box(a, map, control, stage, owner, lane, tile_pages, slot, part.kv_head, is_pair, rank);
      __syncwarp();
      barrier_wait(shared_address(&control->empty[owner][OTHER_HALF]), parity);
      if (lane / 4 == 1 - owner)
        bring_box(a, map, control, stage, owner, lane, tile_pages, slot, part.kv_head, is_pair, rank);
      __syncwarp();
      if (is_pair && boxes == 1) {
        /* The next tile's memory is in use still: until it is handed back, its keys come to the L2. */
        const int32_t page = __shfl_sync(0xffffffffu, at > 0 ? pages : next_pages, at);
        if (page >= 0 && lane <= ROPE_BOX && bringer(1 - owner, lane) == rank && asks_for(a, lane))
          prefetch_box(map, lane * 64, (key + BLOCK_KEYS) % a->page_size, page, part.kv_head);
        __syncwarp();
      }
    }
  }
}

/* ---- Computing: warpgroups 0 and 1 ------------------------------------------------------------------- */

/* Brings o and the sums to the rows' new references; most tiles have the old ones. */
static __device__ __forceinline__ void follow_reference(float o[128], float sum[2], float reference[2], float next0,
                                                        float next1) {
  const float f[2] = {growth(reference[0], next0), growth(reference[1], next1)};
#pragma unroll
  for (int i = 0; i < 128; i++)
    o[i] *= f[i / 2 % 2];
#pragma unroll
  for (int i = 0; i < 2; i++)
    sum[i] *= f[i];
  reference[0] = next0;
  reference[1] = next1;
}

/* Of two lanes that differ in one bit, the lower gives its second word for the upper one's first. */
static __device__ __forceinline__ void exchange(uint32_t *first, uint32_t *second, int lane, int bit) {
  const bool is_upper = (lane & bit) != 0;
  const uint32_t taken = __shfl_xor_sync(0xffffffffu, is_upper ? *first : *second, bit);
  *first = is_upper ? taken : *first;
  *second = is_upper ? *second : taken;
}

/* A row's 256 columns, of which this thread has two in eight, if the row is to be stored. Neighbours exchange theirs for
   16 bytes side by side: 16-bit columns would else leave half a sector at a time. One loop for each size: this code runs
   cold, and its length is its time. */
static __device__ __forceinline__ void store_columns(bool stores, void *row, int32_t dtype, const float *o, float f,
                                                     int lane) {
  if (dtype == DTYPE_FP32) {
#pragma unroll
    for (int j = 0; j < 32; j += 2) {
      uint32_t v[4];
#pragma unroll
      for (int i = 0; i < 4; i++)
        v[i] = __float_as_uint(o[4 * (j + i / 2) + i % 2] * f);
      exchange(&v[0], &v[2], lane, 1);
      exchange(&v[1], &v[3], lane, 1);
      if (stores)
        *(uint4 *)((float *)row + (j + lane % 2) * 8 + lane % 4 / 2 * 4) = make_uint4(v[0], v[1], v[2], v[3]);
    }
    return;
  }
#pragma unroll
  for (int j = 0; j < 32; j += 4) {
    uint32_t v[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const float x = o[4 * (j + i)] * f, y = o[4 * (j + i) + 1] * f;
      v[i] = dtype == DTYPE_BF16 ? pack_bf16(x, y) : pack_fp16(x, y);
    }
    exchange(&v[0], &v[1], lane, 1);
    exchange(&v[2], &v[3], lane, 1);
    exchange(&v[0], &v[2], lane, 2);
    exchange(&v[1], &v[3], lane, 2);
    if (stores)
      *(uint4 *)((uint16_t *)row + (j + lane % 4) * 8) = make_uint4(v[0], v[1], v[2], v[3]);
  }
}

/* Zeros for what lies behind the last key in the columns that this warpgroup adds: 0 times NaN is NaN. */
static __device__ __forceinline__ void clear_tail(uint32_t columns, int first, int thread, int group) {
  const int chunks = (BLOCK_KEYS - first) * 8; /* of a box */
  for (int i = thread; i < 4 * chunks; i += 128)
    store_zeros_128(columns + i / chunks * BOX_BYTES + first * 128 + i % chunks * 16);
  fence_for_async();
  named_barrier(1 + group, 128);
}

#define KERNEL_NAME fmlai_decode_hopper_bf16_rows64
#define IS_PAIR 0
#define TYPE bf16
#define PACK pack_bf16
#include "decode_hopper.cuh"

#define KERNEL_NAME fmlai_decode_hopper_fp16_rows64
#define IS_PAIR 0
#define TYPE f16
#define PACK pack_fp16
#include "decode_hopper.cuh"

#define KERNEL_NAME fmlai_decode_hopper_bf16_rows128
#define IS_PAIR 1
#define TYPE bf16
#define PACK pack_bf16
#include "decode_hopper.cuh"

#define KERNEL_NAME fmlai_decode_hopper_fp16_rows128
#define IS_PAIR 1
#define TYPE f16
#define PACK pack_fp16
#include "decode_hopper.cuh"
