/* bench_step.h: the step of a row of the bench, in host memory, of random values; but for its KV cache. */
#ifndef CLI_BENCH_STEP_H
#define CLI_BENCH_STEP_H

#include "bench_row.h"
#include "random.h"

#include <stdint.h>

/* The block table names every page of one cache once, in random order. */
typedef struct bench_step {
  fmla_decode_params params;
  uint16_t *q; /* NULL until bench_step_fill_q */
  int32_t *block_table;
  int32_t *cache_seqlens;
} bench_step;

/* Returns an exit code; bench_step_free in every case. */
int bench_step_build(const bench_shape *shape, verify_random *random, bench_step *step);
int bench_step_fill_q(bench_step *step, verify_random *random);
void bench_step_free(bench_step *step);

/* Random numbers of mean 0 and variance 1. */
void fill_random(uint16_t *values, size_t count, int32_t dtype, verify_random *random);

#endif
