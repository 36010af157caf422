#include "ceilings.h"

#include "cache_size.h"
#include "common.h"
#include "timing.h"

#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { ROUNDS = 3 };
static const double round_seconds = 0.15;

/* Vectors of the width that every x86-64 and Arm CPU has. */
typedef float float_vector __attribute__((vector_size(16)));
typedef uint64_t word_vector __attribute__((vector_size(16)));

typedef struct worker {
  pthread_t thread;
  word_vector *words; /* what it reads */
  size_t num_words;
  double rate;          /* bytes or operations per second */
  volatile double kept; /* what was computed, so that it is */
} worker;

/* ---- One thread --------------------------------------------------------------------------------- */

enum { READ_STEP = 8 };

static double read_words(const word_vector *words, size_t num_words) {
  word_vector sums[READ_STEP] = {{0}};
  for (size_t i = 0; i < num_words; i += READ_STEP)
    for (size_t j = 0; j < READ_STEP; j++)
      sums[j] ^= words[i + j];
  word_vector sum = sums[0];
  for (size_t j = 1; j < READ_STEP; j++)
    sum ^= sums[j];
  return (double)(sum[0] ^ sum[1]);
}

static void *read_memory(void *argument) {
  worker *w = argument;
  const double start = now();
  double elapsed, bytes = 0;
  do {
    w->kept = read_words(w->words, w->num_words);
    bytes += (double)(w->num_words * sizeof *w->words);
    elapsed = now() - start;
  } while (elapsed < round_seconds);
  w->rate = bytes / elapsed;
  return NULL;
}

/* Enough sums in flight to hide the latency of a multiply and an add. */
enum { SUMS = 12, LANES = sizeof(float_vector) / sizeof(float), CHAIN = 20000 };

static float multiply_add(float start) {
  const float_vector a = {0.999f, 0.999f, 0.999f, 0.999f}, b = {start, start, start, start};
  /* Sums that start alike would be computed once. */
  float_vector s0 = b, s1 = s0 + b, s2 = s1 + b, s3 = s2 + b, s4 = s3 + b, s5 = s4 + b;
  float_vector s6 = s5 + b, s7 = s6 + b, s8 = s7 + b, s9 = s8 + b, s10 = s9 + b, s11 = s10 + b;
  for (int i = 0; i < CHAIN; i++) {
    s0 = s0 * a + b;
    s1 = s1 * a + b;
    s2 = s2 * a + b;
    s3 = s3 * a + b;
    s4 = s4 * a + b;
    s5 = s5 * a + b;
    s6 = s6 * a + b;
    s7 = s7 * a + b;
    s8 = s8 * a + b;
    s9 = s9 * a + b;
    s10 = s10 * a + b;
    s11 = s11 * a + b;
  }
  const float_vector sum = s0 + s1 + s2 + s3 + s4 + s5 + s6 + s7 + s8 + s9 + s10 + s11;
  return sum[0] + sum[1] + sum[2] + sum[3];
}

static void *multiply(void *argument) {
  worker *w = argument;
  const double start = now();
  double elapsed, operations = 0;
  float sum = 1;
  do {
    sum = multiply_add(1 + 1e-9f * sum); /* each call needs the one before it, so none can be left out */
    operations += 2.0 * SUMS * LANES * CHAIN;
    elapsed = now() - start;
  } while (elapsed < round_seconds);
  w->kept = (double)sum;
  w->rate = operations / elapsed;
  return NULL;
}

static void *touch(void *argument) {
  worker *w = argument;
  memset(w->words, 1, w->num_words * sizeof *w->words);
  return NULL;
}

/* ---- All threads -------------------------------------------------------------------------------- */

static int run_all(worker *workers, int num_workers, void *(*run)(void *)) {
  int started = 0, error = 0;
  while (started < num_workers &&
         (error = pthread_create(&workers[started].thread, NULL, run, &workers[started])) == 0)
    started++;
  for (int i = 0; i < started; i++)
    pthread_join(workers[i].thread, NULL);
  return error == 0 ? EXIT_OK
                    : fail(EXIT_ENVIRONMENT, "cannot create a thread to measure with: %s", strerror(error));
}

/* The highest of the rounds' rates: whatever else runs only lowers one. */
static int best_rate(worker *workers, int num_workers, void *(*run)(void *), double *best) {
  int code = EXIT_OK;
  *best = 0;
  for (int round = 0; round < ROUNDS && code == EXIT_OK; round++) {
    code = run_all(workers, num_workers, run);
    double rate = 0;
    for (int i = 0; i < num_workers; i++)
      rate += workers[i].rate;
    *best = rate > *best ? rate : *best;
  }
  return code;
}

static int measure(worker *workers, int num_workers, ceilings *result) {
  int code = run_all(workers, num_workers, touch);
  if (code == EXIT_OK)
    code = best_rate(workers, num_workers, read_memory, &result->read_bytes);
  return code == EXIT_OK ? best_rate(workers, num_workers, multiply, &result->operations) : code;
}

int measure_ceilings(const fmla_context_info *context, ceilings *result) {
  if (strcmp(context->device, "cpu") != 0)
    return fail(EXIT_ENVIRONMENT, "bench has no ceilings to stand beside: not measured on this device yet (%s)",
                context->device);
  const size_t num_workers = (size_t)context->num_threads;
  result->cache_bytes = last_level_cache_bytes();
  /* Each worker reads its own part; all together are out of reach of the caches. */
  const size_t part =
      CACHES_OUTGROWN * result->cache_bytes / sizeof(word_vector) / num_workers / READ_STEP * READ_STEP;
  worker *workers = calloc(num_workers, sizeof *workers);
  word_vector *words = malloc(part * num_workers * sizeof *words);
  int code;
  if (workers != NULL && words != NULL) {
    for (size_t i = 0; i < num_workers; i++)
      workers[i] = (worker){.words = words + part * i, .num_words = part};
    code = measure(workers, (int)num_workers, result);
  } else {
    code = fail_memory();
  }
  free(words);
  free(workers);
  return code;
}
