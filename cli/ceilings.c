#include "ceilings.h"

#include "cache_size.h"
#include "common.h"
#include "register_rate.h"
#include "timing.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { ROUNDS = 3 };
static const double round_seconds = 0.15;

/* The instruction sets, in the order of the kernels that are made of them, and the features that tell of them.
 */
static const struct instruction_set {
  const char *name, *feature, *kernel;
  register_work *work;
} instruction_sets[] = {
#if defined(__x86_64__)
    {"AMX-BF16", "amx_bf16", "amx", register_work_amx},
    {"AVX-512-BF16", "avx512bf16", "avx512bf16", register_work_avx512bf16},
    {"AVX-512 FP32", "avx512f", "avx512", register_work_avx512},
    {"AVX2 FP32", "fma", "avx2", register_work_avx2},
#endif
    {"baseline FP32", "", "portable", register_work_baseline},
};

/* A vector of the width that every x86-64 and Arm CPU has. */
typedef uint64_t word_vector __attribute__((vector_size(16)));

typedef struct worker {
  pthread_t thread;
  word_vector *words; /* what it reads */
  size_t num_words;
  const struct instruction_set *set; /* what it multiplies with */
  double rate;                       /* bytes or operations per second */
  volatile double kept;              /* what was computed, so that it is */
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

static void *multiply(void *argument) {
  worker *w = argument;
  const double start = now();
  double elapsed, operations = 0;
  do {
    operations += w->set->work(1 + 1e-9f * (float)w->kept, &w->kept); /* each needs the one before it */
    elapsed = now() - start;
  } while (elapsed < round_seconds);
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

/* Whether a list of words separated by spaces has a word; every list has the empty one. */
static bool has_word(const char *list, const char *word) {
  const size_t length = strlen(word);
  for (const char *at = list; length > 0 && (at = strstr(at, word)) != NULL; at += length)
    if ((at == list || at[-1] == ' ') && (at[length] == ' ' || at[length] == '\0'))
      return true;
  return length == 0;
}

/* The kernel's instruction set; without a kernel the first that the library may use on this CPU. */
static int find_instruction_set(const char *kernel, const struct instruction_set **found) {
  fmla_device_info device = {.struct_size = sizeof device};
  int code = EXIT_OK;
  for (int32_t i = 0; code == EXIT_OK && i < fmla_device_count() && strcmp(device.name, "cpu") != 0; i++)
    code = fail_status(fmla_get_device_info(i, &device));
  *found = instruction_sets;
  while (kernel != NULL ? strcmp((*found)->kernel, kernel) != 0 : !has_word(device.features, (*found)->feature))
    ++*found;
  return code;
}

static int measure(worker *workers, int num_workers, ceilings *result) {
  int code = run_all(workers, num_workers, touch);
  if (code == EXIT_OK)
    code = best_rate(workers, num_workers, read_memory, &result->read_bytes);
  return code == EXIT_OK ? best_rate(workers, num_workers, multiply, &result->operations) : code;
}

int measure_ceilings(const fmla_context_info *context, const char *kernel, ceilings *result) {
  const size_t num_workers = (size_t)context->num_threads;
  const struct instruction_set *set;
  int code = find_instruction_set(kernel, &set);
  if (code != EXIT_OK)
    return code;
  result->instruction_set = set->name;
  result->cache_bytes = last_level_cache_bytes();
  /* Each worker reads its own part; all together are out of reach of the caches. */
  const size_t part =
      CACHES_OUTGROWN * result->cache_bytes / sizeof(word_vector) / num_workers / READ_STEP * READ_STEP;
  worker *workers = calloc(num_workers, sizeof *workers);
  word_vector *words = malloc(part * num_workers * sizeof *words);
  if (workers != NULL && words != NULL) {
    for (size_t i = 0; i < num_workers; i++)
      workers[i] = (worker){.words = words + part * i, .num_words = part, .set = set};
    code = measure(workers, (int)num_workers, result);
  } else {
    code = fail_memory();
  }
  free(words);
  free(workers);
  return code;
}
