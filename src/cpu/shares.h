/*
 * How finely a step is shared out: into how many items, and among how many threads. Estimates steer both;
 * results depend on the first alone, which knows the processor but not the number of threads.
 */
#ifndef FMLAI_CPU_SHARES_H
#define FMLAI_CPU_SHARES_H

#include "cpu/kernel.h"

typedef struct fmlai_cpu_costs {
  double key;   /* seconds for one key of a tile */
  double split; /* seconds for a partial result: written, read again and merged */
} fmlai_cpu_costs;

fmlai_cpu_costs fmlai_cpu_costs_of(const fmlai_cpu_kernel *kernel, const fmla_decode_params *params,
                                   int32_t tile_rows);

/* The largest target that fmlai_cpu_target_items() gives, for tiles of so many rows. */
int32_t fmlai_cpu_max_target_items(int32_t num_processors, int32_t tile_rows);

/* Rows of partial results that a target can lead to in the normal mode; never shrinks as tile_rows grows. */
int64_t fmlai_cpu_max_partial_rows(int32_t num_processors, int32_t tile_rows);

/*
 * The target_items of a plan that all processors would finish first: many items share the work out evenly, but
 * each split of a sequence costs a partial result. `memory` holds the plan's index.
 */
int32_t fmlai_cpu_target_items(const fmlai_plan_shape *shape, const fmla_decode_params *params,
                               const fmlai_cpu_costs *costs, int32_t num_processors, int32_t max_target,
                               void *memory);

/* The threads that a plan keeps busy for long enough to pay for waking them. */
int32_t fmlai_cpu_useful_threads(const fmlai_plan *plan, const fmlai_cpu_costs *costs);

#endif
