#include "timing.h"

#include <stdlib.h>
#include <time.h>

enum { MIN_RUNS = 5, MAX_RUNS = 500 };
static const double enough_seconds = 0.3, slow_seconds = 3;

double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static int compare_doubles(const void *a, const void *b) {
  const double left = *(const double *)a, right = *(const double *)b;
  return (left > right) - (left < right);
}

/* The value below which `share` of the sorted values lie, interpolated. */
static double quantile(const double *sorted, int count, double share) {
  const double place = share * (count - 1);
  const int below = (int)place;
  const int above = below + 1 < count ? below + 1 : below;
  return sorted[below] + (place - below) * (sorted[above] - sorted[below]);
}

timing timing_of(double *seconds, int count) {
  qsort(seconds, (size_t)count, sizeof *seconds, compare_doubles);
  return (timing){.median = quantile(seconds, count, 0.5),
                  .spread = (quantile(seconds, count, 0.75) - quantile(seconds, count, 0.25)) / 2,
                  .fastest = seconds[0],
                  .runs = count};
}

fmla_status time_runs(timed_run *run, void *argument, timing *result) {
  double seconds[MAX_RUNS], total = 0;
  int count = 0;
  for (int index = 0; count < MAX_RUNS && (count < MIN_RUNS || total < enough_seconds); index++) {
    const double start = now();
    const fmla_status status = run(argument, index);
    const double elapsed = now() - start;
    if (status != FMLA_OK)
      return status;
    if (index == 0 && elapsed < slow_seconds)
      continue;
    seconds[count++] = elapsed;
    total += elapsed;
    if (total > MIN_RUNS * slow_seconds || index == 0)
      break;
  }
  *result = timing_of(seconds, count);
  return FMLA_OK;
}
