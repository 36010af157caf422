/* bench_gpu.h: one shape of the bench on a GPU. */
#ifndef CLI_BENCH_GPU_H
#define CLI_BENCH_GPU_H

#include "bench_row.h"
#include "gpu.h"

/* As measure_row. Decode steps on several caches, used in turn so that the L2 holds none of them as a whole,
   are captured in a graph, which is replayed; its time is the device's. */
int measure_row_on_gpu(fmla_context *context, probe_gpu *gpu, const bench_shape *shape, bench_row *row);

#endif
