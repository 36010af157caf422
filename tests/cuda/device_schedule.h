/*
 * device_schedule.h: the device's schedule (src/cuda/kernels/schedule.cuh), run on the CPU.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef DEVICE_SCHEDULE_H
#define DEVICE_SCHEDULE_H

#include "cuda/kernels/args.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct device_piece {
  int32_t cta, batch, kv_head, row_tile, block_begin, block_end, slot;
} device_piece;

/*
 * The pieces of all CTAs of a decode kernel, in the order in which each takes its own, `most` of them at most.
 * Returns how many there are. Writes args->num_rounds and args->split_tiles as the kernel does.
 */
int device_schedule(const fmlai_cuda_decode_args *args, device_piece *pieces, int most);

#ifdef __cplusplus
}
#endif

#endif
