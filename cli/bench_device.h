/* bench_device.h: what the bench's rows are measured on: a device, and how fast it can be. */
#ifndef CLI_BENCH_DEVICE_H
#define CLI_BENCH_DEVICE_H

#include "bench_row.h"
#include "ceilings.h"
#include "gpu.h"
#include "gpu_ceilings.h"

#include <jansson.h>

typedef struct bench_device {
  fmla_context *context;
  fmla_context_info info;
  char description[128];
  const char *kernel; /* that the context was opened with, or NULL */
  ceilings ceilings;
  bool is_gpu; /* then: */
  probe_gpu gpu;
  probe_ceilings gpu_ceilings;
} bench_device;

/* Returns an exit code; bench_device_close in every case. */
int bench_device_open(const fmla_config *config, bench_device *device);
void bench_device_close(bench_device *device);

/* Within about two seconds. Returns an exit code, as the next one. */
int bench_device_measure_ceilings(bench_device *device);

int bench_device_measure_row(bench_device *device, const bench_shape *shape, bench_row *row);

/* What the device could do at best, by its ceilings. */
typedef struct bench_floor {
  double seconds;
  bool memory_bound;
} bench_floor;

bench_floor bench_device_floor(const bench_device *device, int32_t dtype, const step_cost *cost);

/* The device and its ceilings, for people, and as an object; NULL when memory ran out. */
void bench_device_print(const bench_device *device);
json_t *bench_device_describe(const bench_device *device);

#endif
