/* bench_row.h: one shape of the bench, made of random values and timed. */
#ifndef CLI_BENCH_ROW_H
#define CLI_BENCH_ROW_H

#include "cost.h"
#include "timing.h"

#include <stdbool.h>

typedef struct bench_shape {
  int32_t batch, heads, seqlen_q, seqlen, page_size, dtype;
  bool varlen; /* lengths from a half to one and a half of seqlen */
  bool causal;
  bool batch_invariant;
} bench_shape;

typedef struct bench_row {
  timing time;
  step_cost cost;
  const char *kernel;
} bench_row;

/* Times a shape on caches that are together many times as large as `cache_bytes`, each run on the next of them.
   Returns an exit code. */
int measure_row(fmla_context *context, const bench_shape *shape, size_t cache_bytes, bench_row *row);

#endif
