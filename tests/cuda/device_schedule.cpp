/*
 * device_schedule.cpp: a warp on the CPU: 32 coroutines, each of which runs until all of them meet in a
 * function of the whole warp. C++ because device code is CUDA C, which has initialisers of C++.
 *
 * SPDX-License-Identifier: MIT
 */
#include "device_schedule.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <ucontext.h>

/* ---- The warp ---------------------------------------------------------------------------------------- */

enum { LANES = 32, STACK_BYTES = 64 << 10 };

struct lane_state {
  ucontext_t context;
  bool is_over;
  int meetings; /* so far */
};

static ucontext_t scheduler;
static lane_state lanes[LANES];
static int running;                /* lane */
static uint32_t given[2][LANES];   /* at this meeting and the one before */
static const char *meeting[LANES]; /* the function in which a lane waits */
static char stacks[LANES][STACK_BYTES];

/* What all lanes give, once all have given. */
static const uint32_t *meet(const char *function, uint32_t value) {
  lane_state *me = &lanes[running];
  const int which = me->meetings++ % 2;
  given[which][running] = value;
  meeting[running] = function;
  swapcontext(&me->context, &scheduler);
  return given[which];
}

static void run_warp(void (*body)(void)) {
  for (int i = 0; i < LANES; i++) {
    lanes[i].is_over = false;
    lanes[i].meetings = 0;
    getcontext(&lanes[i].context);
    lanes[i].context.uc_stack.ss_sp = stacks[i];
    lanes[i].context.uc_stack.ss_size = STACK_BYTES;
    lanes[i].context.uc_link = &scheduler;
    makecontext(&lanes[i].context, body, 0);
  }
  while (!lanes[0].is_over)
    for (int i = 0; i < LANES; i++) {
      running = i;
      swapcontext(&scheduler, &lanes[i].context);
      if (lanes[i].is_over != lanes[0].is_over || (!lanes[i].is_over && meeting[i] != meeting[0])) {
        std::fprintf(stderr, "lanes 0 and %d went different ways: %s, %s\n", i, meeting[0], meeting[i]);
        std::abort();
      }
    }
}

/* ---- What device code calls -------------------------------------------------------------------------- */

#define __device__
#define __forceinline__ inline

using std::max;
using std::min;

static inline size_t __cvta_generic_to_shared(const void *pointer) {
  return (size_t)pointer;
}
static inline void __syncwarp(void) {
  meet("__syncwarp", 0);
}
static inline void __threadfence(void) {}
static inline int __ffs(unsigned bits) {
  return __builtin_ffs((int)bits);
}

static inline int32_t __shfl_sync(unsigned, int32_t value, int from) {
  return (int32_t)meet("__shfl_sync", (uint32_t)value)[from % LANES];
}

static inline int32_t __shfl_up_sync(unsigned, int32_t value, int offset) {
  const int from = running - offset;
  const uint32_t *all = meet("__shfl_up_sync", (uint32_t)value);
  return from < 0 ? value : (int32_t)all[from];
}

static inline unsigned __ballot_sync(unsigned, bool is) {
  const uint32_t *all = meet("__ballot_sync", is);
  unsigned bits = 0;
  for (int i = 0; i < LANES; i++)
    bits |= all[i] << i;
  return bits;
}

static inline uint32_t __reduce_add_sync(unsigned, uint32_t value) {
  const uint32_t *all = meet("__reduce_add_sync", value);
  uint32_t sum = 0;
  for (int i = 0; i < LANES; i++)
    sum += all[i];
  return sum;
}

static inline int32_t __reduce_max_sync(unsigned, int32_t value) {
  const uint32_t *all = meet("__reduce_max_sync", (uint32_t)value);
  int32_t largest = value;
  for (int i = 0; i < LANES; i++)
    largest = max(largest, (int32_t)all[i]);
  return largest;
}

#include "cuda/kernels/schedule.cuh"

/* ---- The walk of a CTA ------------------------------------------------------------------------------- */

static struct {
  const fmlai_cuda_decode_args *args;
  int32_t cta;
  device_piece *pieces;
  int count, most;
} job;

static void walk_share(void) {
  const int lane = running;
  walk w = begin_walk(job.args, job.cta, lane);
  for (;;) {
    const piece p = next_piece(job.args, &w, lane);
    if (p.batch < 0)
      break;
    if (lane == 0 && job.count++ < job.most)
      job.pieces[job.count - 1] =
          device_piece{job.cta, p.batch, p.kv_head, p.row_tile, p.block_begin, p.block_end, p.slot};
  }
  end_walk(lane);
  lanes[lane].is_over = true;
}

int device_schedule(const fmlai_cuda_decode_args *args, device_piece *pieces, int most) {
  job.args = args;
  job.pieces = pieces;
  job.count = 0;
  job.most = most;
  for (job.cta = 0; job.cta < args->num_ctas; job.cta++)
    run_warp(walk_share);
  return job.count;
}
