/* What the Hopper kernels share: how pieces, keys and rows of q reach the warpgroups that compute, from a third. */
#ifndef FMLAI_CUDA_HOPPER_FEED_CUH
#define FMLAI_CUDA_HOPPER_FEED_CUH

#include "hopper.cuh"
#include "rows.cuh"
#include "variants.h"

enum {
  BOX_BYTES = 64 * 128, /* 64 keys, or 64 rows, of 64 columns */
  LOADERS = 96,         /* threads that load q */
  MATH_WARPS = 8,
  BUT_FEEDER = 0,  /* named barriers: all threads but the feeder's warp; also __syncthreads. A warpgroup's own: 1, 2 */
  BOTH_GROUPS = 3, /* those that compute */
  FEEDER = 4,      /* the loaders tell the feeder */
  SLACK = 8,       /* a row's reference follows its maximum only when that has grown by more than 2^SLACK */
};

typedef struct hopper_feed {
  uint64_t q_full, q_empty;
  uint64_t piece_full[2], piece_empty[2];
  piece pieces[2];
  piece no_piece; /* for a rehearsal */
} hopper_feed;

static __device__ __forceinline__ void init_feed(hopper_feed *f) {
  f->no_piece = piece{};
  for (int i = 0; i < 2; i++) {
    barrier_init(shared_address(&f->piece_full[i]), 1);
    barrier_init(shared_address(&f->piece_empty[i]), MATH_WARPS + LOADERS / 32);
  }
  barrier_init(shared_address(&f->q_full), LOADERS);
  barrier_init(shared_address(&f->q_empty), MATH_WARPS);
}

/* Tells the others of a piece. By one warp. */
static __device__ __forceinline__ void publish(hopper_feed *f, uint32_t number, const piece *part, int lane) {
  barrier_wait(shared_address(&f->piece_empty[number % 2]), number / 2 % 2 ^ 1);
  if (lane == 0) {
    f->pieces[number % 2] = *part;
    barrier_arrive(shared_address(&f->piece_full[number % 2]));
  }
  __syncwarp();
}

/* Pages of some boxes of keys from `first` on, one a lane. */
static __device__ __forceinline__ int32_t pages_of_boxes(const decode_args *a, const piece *part, int32_t first,
                                                         int32_t key_end, int lane) {
  return page_of_key(a, part->batch, first + lane * a->box_keys, key_end);
}

/* A box of columns of a tile, whose keys lie in `pages`, from `slot` of the first on; box 0 would lie at `stage`. To this
   CTA, or to both of its pair. By one lane; several may each have a box of their own. */
static __device__ __forceinline__ void copy_columns(const decode_args *a, const fmlai_cuda_tensor_map *map,
                                                    uint32_t stage, uint32_t barrier, int box, const int32_t pages[4],
                                                    int32_t slot, int32_t kv_head, bool to_pair) {
#pragma unroll
  for (int i = 0; i < 4; i++)
    if (i * a->box_keys < BLOCK_KEYS) {
      (to_pair ? copy_box_to_pair : copy_box)(stage + box * BOX_BYTES + i * a->box_keys * 128, map, barrier, box * 64, slot, pages[i], kv_head);
      slot = slot + a->box_keys == a->page_size ? 0 : slot + a->box_keys;
    }
}

/* A piece's rows of q, where products take them; zeros for rows of max_rows that are none of num_rows. Eight threads a
   row. */
static __device__ __forceinline__ void bring_q(const decode_args *a, const piece *part, int num_rows, uint32_t to,
                                               int max_rows, int thread) {
  const piece_rows rows = rows_of_piece(a, part, max_rows);
  const int chunk = thread % 8; /* of 16 bytes, in each box */
  const int nope_columns = 576 - a->head_dim_rope;
#pragma unroll 1
  for (int r = thread / 8; r < max_rows; r += LOADERS / 8) {
    const bool valid = r < num_rows;
    const q_row row = find_q_row(a, place_of_row(a, part, &rows, valid ? r : 0));
    const uint16_t *nope = row.nope + chunk * 8, *rope = row.rope + chunk * 8 - nope_columns;
    const uint32_t at = to + r * 128 + (chunk ^ r % 8) * 16;
#pragma unroll
    for (int box = 0; box < 9; box++)
      cp_async_16(at + box * max_rows * 128, (box * 64 + chunk * 8 < nope_columns ? nope : rope) + box * 64,
                  valid ? 16 : 0);
  }
  cp_async_commit();
  cp_async_wait(0);
  fence_for_async();
}

/* The rows of q of each piece. First a rehearsal before the kernel's turn, without rows: where all SMs begin at once,
   the code is longer in coming than q. One call of bring_q, as a second one would be inlined as code of its own. */
static __device__ __forceinline__ void feed_q(const decode_args *a, hopper_feed *f, uint32_t to, int max_rows,
                                              int thread) {
  bool rehearses = true;
  for (uint32_t number = 0, q_number = 0;;) {
    const piece *part = rehearses ? &f->no_piece : &f->pieces[number % 2];
    if (!rehearses) {
      barrier_wait(shared_address(&f->piece_full[number % 2]), number / 2 % 2);
      if (part->batch < 0)
        return;
    }
    if (rehearses || part->block_begin < part->block_end) {
      if (!rehearses)
        barrier_wait(shared_address(&f->q_empty), q_number % 2 ^ 1);
      bring_q(a, part, rehearses ? 0 : rows_of_piece(a, part, max_rows).count, to, max_rows, thread);
      if (!rehearses)
        barrier_arrive(shared_address(&f->q_full));
      q_number += !rehearses;
    }
    __syncwarp();
    if (rehearses) {
      wait_for_turn();
      prefetch_table(a, (int32_t)blockIdx.x * LOADERS + thread);
      write_unowned_rows(a, thread, LOADERS);
    } else if (thread % 32 == 0) {
      barrier_arrive(shared_address(&f->piece_empty[number % 2]));
    }
    number += !rehearses;
    rehearses = false;
  }
}

/* The factor from one reference to another. */
static __device__ __forceinline__ float growth(float from, float to) { return from == to ? 1 : exp2_approx(from - to); }

#endif
