#include "gpu_ceilings.h"

#include "graph.h"
#include "kernels/args.h"

#include <stdlib.h>
#include <time.h>

_Static_assert(PROBE_PAGE_KIB * 1024 == PROBE_PAGE_BYTES, "the size that is told");

/* ---- Reading ------------------------------------------------------------------------------------ */

typedef struct reading {
  void *pages, *order, *sums;
  uint32_t num_pages;
  probe_timer timer;
} reading;

/* The numbers 0 .. count - 1 in random order; the same in every run. */
static uint32_t *shuffle(uint32_t count) {
  uint32_t *numbers = calloc((size_t)count + 1, sizeof *numbers);
  uint32_t state = 1;
  for (uint32_t i = 0; numbers != NULL && i < count; i++) {
    state = state * 1664525u + 1013904223u; /* Numerical Recipes' generator; its upper bits are random enough */
    const uint32_t place = (uint32_t)((uint64_t)state * (i + 1) >> 32);
    numbers[i] = numbers[place];
    numbers[place] = i;
  }
  return numbers;
}

static bool place_order(probe_gpu *gpu, reading *r) {
  const size_t bytes = r->num_pages * sizeof(uint32_t);
  uint32_t *order = shuffle(r->num_pages);
  const bool done = order == NULL ? probe_fail(gpu, "memory ran out")
                                  : PROBE_CALL(gpu, cuMemAlloc, &r->order, bytes) &&
                                        PROBE_CALL(gpu, cuMemcpyHtoDAsync, r->order, order, bytes, NULL) &&
                                        PROBE_CALL(gpu, cuStreamSynchronize, NULL);
  free(order);
  return done;
}

/* As much memory as is many times the L2, and leaves room for others. */
static bool place_pages(probe_gpu *gpu, reading *r) {
  const size_t wanted = (size_t)4 << 30, least = 4 * (size_t)gpu->l2_bytes + PROBE_PAGE_BYTES;
  size_t free_bytes;
  if (!probe_free_bytes(gpu, &free_bytes))
    return false;
  const size_t bytes = free_bytes / 2 < wanted ? free_bytes / 2 : wanted;
  if (bytes < least)
    return probe_fail(gpu, "to measure the memory takes %zu bytes of it, and of %zu that are free half is less",
                      least, free_bytes);
  r->num_pages = (uint32_t)(bytes / PROBE_PAGE_BYTES);
  return PROBE_CALL(gpu, cuMemAlloc, &r->pages, bytes) &&
         probe_fill(gpu, r->pages, (uint64_t)r->num_pages * PROBE_PAGE_BYTES / 2, 1, false, NULL);
}

static int compare_doubles(const void *a, const void *b) {
  const double left = *(const double *)a, right = *(const double *)b;
  return (left > right) - (left < right);
}

static bool time_reading(probe_gpu *gpu, reading *r, probe_ceilings *result) {
  enum { ROUNDS = 8, SAMPLES = 7 }; /* the first to warm up */
  probe_kernel read;
  if (!probe_find_kernel(gpu, PROBE_IMAGE_read, "probe_read", 0, &read))
    return false;
  const int32_t grid = gpu->device->num_sms * (read.is_for_90 ? 1 : PROBE_READ_CTAS_PER_SM);
  const int32_t shared = read.is_for_90 ? PROBE_READ_BULK_BYTES : 0;
  uint32_t num_reads = r->num_pages * ROUNDS;
  void *parameters[] = {&r->pages, &r->order, &r->num_pages, &num_reads, &r->sums};
  double seconds[SAMPLES];
  if (!probe_find_kernel(gpu, PROBE_IMAGE_read, "probe_read", shared, &read) ||
      !PROBE_CALL(gpu, cuMemAlloc, &r->sums, (size_t)grid * sizeof(uint32_t)) ||
      !probe_timer_create(gpu, &r->timer))
    return false;
  for (int i = 0; i < SAMPLES; i++)
    if (!probe_timer_start(gpu, &r->timer, NULL) ||
        !probe_launch(gpu, &read, grid, PROBE_READ_THREADS, shared, parameters, NULL) ||
        !probe_timer_stop(gpu, &r->timer, NULL, &seconds[i]))
      return false;
  qsort(seconds + 1, SAMPLES - 1, sizeof *seconds, compare_doubles);
  result->read_bytes = (double)num_reads * PROBE_PAGE_BYTES / seconds[SAMPLES / 2];
  result->is_for_90 = read.is_for_90;
  return true;
}

static bool measure_reading(probe_gpu *gpu, probe_ceilings *result) {
  reading r = {0};
  const bool done = place_pages(gpu, &r) && place_order(gpu, &r) && time_reading(gpu, &r, result);
  void *const buffers[] = {r.pages, r.order, r.sums};
  for (size_t i = 0; i < sizeof buffers / sizeof *buffers; i++)
    if (buffers[i] != NULL)
      gpu->driver->cuMemFree(buffers[i]);
  probe_timer_free(gpu, &r.timer);
  return done;
}

/* ---- Multiplying -------------------------------------------------------------------------------- */

typedef struct multiplication {
  probe_kernel kernel;
  int32_t grid, shared_bytes;
  void *sums;
  probe_timer timer;
} multiplication;

static bool multiply(probe_gpu *gpu, multiplication *m, int32_t passes, int launches) {
  void *parameters[] = {&m->sums, &passes};
  for (int i = 0; i < launches; i++)
    if (!probe_launch(gpu, &m->kernel, m->grid, PROBE_MULTIPLY_THREADS, m->shared_bytes, parameters, NULL))
      return false;
  return true;
}

/* Operations per second in `launches`. */
static bool time_multiplying(probe_gpu *gpu, multiplication *m, int32_t passes, int launches, double *rate) {
  double seconds;
  if (!probe_timer_start(gpu, &m->timer, NULL) || !multiply(gpu, m, passes, launches) ||
      !probe_timer_stop(gpu, &m->timer, NULL, &seconds))
    return false;
  *rate = (double)m->grid * passes * launches * PROBE_OPERATIONS_PER_PASS / seconds;
  return true;
}

/* One launch lasts about 0.02 s: the first is the burst, six more pass, and five are what is sustained. */
static bool time_type(probe_gpu *gpu, multiplication *m, double *burst, double *sustained) {
  enum { FEW_PASSES = 100, MOST_PASSES = 1000000 };
  const double launch_seconds = 0.02;
  double rate;
  if (!probe_timer_create(gpu, &m->timer) || !time_multiplying(gpu, m, FEW_PASSES, 1, &rate) ||
      !time_multiplying(gpu, m, FEW_PASSES, 1, &rate)) /* the first one also warms up */
    return false;
  const double passes = launch_seconds * rate / PROBE_OPERATIONS_PER_PASS / m->grid;
  const int32_t count = passes < FEW_PASSES ? FEW_PASSES : passes > MOST_PASSES ? MOST_PASSES : (int32_t)passes;
  return time_multiplying(gpu, m, count, 1, burst) && multiply(gpu, m, count, 6) &&
         time_multiplying(gpu, m, count, 5, sustained);
}

static bool measure_multiplying(probe_gpu *gpu, const char *name, double *burst, double *sustained) {
  multiplication m = {0};
  if (!probe_find_kernel(gpu, PROBE_IMAGE_multiply, name, 0, &m.kernel))
    return false;
  m.grid = gpu->device->num_sms * (m.kernel.is_for_90 ? 1 : PROBE_MULTIPLY_MMA_CTAS_PER_SM);
  m.shared_bytes = m.kernel.is_for_90 ? PROBE_MULTIPLY_WGMMA_BYTES : 0;
  const size_t bytes = (size_t)m.grid * PROBE_MULTIPLY_THREADS * sizeof(float);
  const bool done = probe_find_kernel(gpu, PROBE_IMAGE_multiply, name, m.shared_bytes, &m.kernel) &&
                    PROBE_CALL(gpu, cuMemAlloc, &m.sums, bytes) && time_type(gpu, &m, burst, sustained);
  probe_timer_free(gpu, &m.timer);
  if (m.sums != NULL)
    gpu->driver->cuMemFree(m.sums);
  return done;
}

/* For the GPU to forget the load before. */
static void pause_load(void) {
  const struct timespec pause = {.tv_nsec = 200000000};
  nanosleep(&pause, NULL);
}

bool probe_measure_ceilings(probe_gpu *gpu, probe_ceilings *result) {
  static const char *const names[PROBE_NUM_TYPES] = {"probe_multiply_bf16", "probe_multiply_fp16"};
  if (!measure_reading(gpu, result))
    return false;
  for (int type = 0; type < PROBE_NUM_TYPES; type++) {
    pause_load();
    if (!measure_multiplying(gpu, names[type], &result->burst_operations[type], &result->operations[type]))
      return false;
  }
  return true;
}
