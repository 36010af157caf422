/* timing.h: the time of a call, as the median of repeated runs. */
#ifndef CLI_TIMING_H
#define CLI_TIMING_H

#include "flash_mla.h"

typedef struct timing {
  double median;  /* seconds */
  double spread;  /* half the distance from the lower to the upper quartile, seconds */
  double fastest; /* seconds */
  int runs;
} timing;

/* A run of what is timed; `index` counts from 0, the warm-up. */
typedef fmla_status timed_run(void *argument, int index);

/* Warms up, then runs at least five times. A warm-up that takes seconds is taken for the only run. Stops at the
   first failure and returns it. */
fmla_status time_runs(timed_run *run, void *argument, timing *result);

/* What so many times, which it sorts, come to. */
timing timing_of(double *seconds, int count);

/* Seconds on a clock that never steps. */
double now(void);

#endif
