#include "check_cases.h"

#include "common.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>

/* Results that wait for an earlier one. */
enum { WINDOW = 256 };

typedef struct slot {
  bool is_done;
  case_result result;
} slot;

typedef struct work {
  const case_run *run;
  pthread_mutex_t mutex; /* over what follows */
  pthread_cond_t moved;  /* `taken` grew, or the run ends */
  int64_t next, taken;   /* cases begun, results taken */
  int code;
  slot slots[WINDOW];
} work;

static slot *slot_of(work *w, int64_t index) {
  return &w->slots[index % WINDOW];
}

static void end(work *w, int code) {
  if (w->code == EXIT_OK)
    w->code = code;
  pthread_cond_broadcast(&w->moved);
}

/* The next case that somebody is to run; -1: none. */
static int64_t next_case(work *w) {
  while (w->code == EXIT_OK && w->next < w->run->num_cases && w->next - w->taken >= WINDOW)
    pthread_cond_wait(&w->moved, &w->mutex);
  return w->code == EXIT_OK && w->next < w->run->num_cases ? w->next++ : -1;
}

static void take_results(work *w) {
  while (w->code == EXIT_OK && slot_of(w, w->taken)->is_done) {
    slot *s = slot_of(w, w->taken);
    const int code = w->run->take(w->run->argument, w->taken, &s->result);
    s->is_done = false;
    w->taken++;
    if (code != EXIT_OK)
      end(w, code);
  }
  pthread_cond_broadcast(&w->moved);
}

static void *work_on(void *argument) {
  work *w = argument;
  verify_target target = {0};
  const fmla_status status = verify_target_open(w->run->config, &target);
  pthread_mutex_lock(&w->mutex);
  if (status != FMLA_OK)
    end(w, fail_status(status));
  for (int64_t i; (i = next_case(w)) >= 0;) {
    case_result *result = &slot_of(w, i)->result;
    pthread_mutex_unlock(&w->mutex);
    const verify_case c = w->run->case_at(w->run->argument, i);
    result->c = verify_case_for(&target, &c);
    result->outcome = verify_run_case(&target, &result->c, result->message, sizeof result->message);
    pthread_mutex_lock(&w->mutex);
    slot_of(w, i)->is_done = true;
    take_results(w);
  }
  pthread_mutex_unlock(&w->mutex);
  verify_target_close(&target);
  return NULL;
}

/* The caller works too, so threads that cannot be created are only missed. */
int check_cases(const case_run *run) {
  work *w = calloc(1, sizeof *w);
  pthread_t *threads = calloc((size_t)run->num_threads, sizeof *threads);
  int code = EXIT_ENVIRONMENT, count = 0;
  if (w != NULL && threads != NULL) {
    w->run = run;
    pthread_mutex_init(&w->mutex, NULL);
    pthread_cond_init(&w->moved, NULL);
    while (count + 1 < run->num_threads && pthread_create(&threads[count], NULL, work_on, w) == 0)
      count++;
    work_on(w);
    for (int i = 0; i < count; i++)
      pthread_join(threads[i], NULL);
    pthread_cond_destroy(&w->moved);
    pthread_mutex_destroy(&w->mutex);
    code = w->code;
  } else {
    fail_memory();
  }
  free(threads);
  free(w);
  return code;
}
