#include "threads.h"

#include "status.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* One call of fmlai_pool_run; lives on its caller's stack. */
typedef struct run {
  fmlai_pool_function function;
  void *argument;
  int64_t count;
  _Atomic int64_t next; /* the first index that nobody has drawn */
  int32_t num_helpers;  /* pool threads at work on this run; guarded by the mutex */
  bool listed;          /* in the pool's list; guarded by the mutex */
  struct run *next_run;
} run;

typedef struct worker {
  fmlai_pool *pool;
  pthread_t thread;
  int32_t number; /* 1 and up; 0 is the caller of a run */
} worker;

struct fmlai_pool {
  pthread_mutex_t mutex;
  pthread_cond_t work; /* a run was listed, or the pool ends */
  pthread_cond_t left; /* a helper left a run */
  run *runs;           /* those that may have indices to draw, oldest first */
  bool ending;
  int32_t num_workers;
  worker workers[];
};

static void draw_all(run *r, int32_t thread) {
  for (;;) {
    const int64_t index = atomic_fetch_add_explicit(&r->next, 1, memory_order_relaxed);
    if (index >= r->count)
      return;
    r->function(r->argument, index, thread);
  }
}

/* With the mutex held. */
static void list_run(fmlai_pool *pool, run *r) {
  run **end = &pool->runs;
  while (*end != NULL)
    end = &(*end)->next_run;
  *end = r;
  r->listed = true;
}

/* With the mutex held, by whoever first finds all indices drawn. */
static void unlist_run(fmlai_pool *pool, run *r) {
  if (!r->listed)
    return;
  run **at = &pool->runs;
  while (*at != r)
    at = &(*at)->next_run;
  *at = r->next_run;
  r->listed = false;
}

static void *work(void *argument) {
  const worker *self = argument;
  fmlai_pool *pool = self->pool;
  pthread_mutex_lock(&pool->mutex);
  for (;;) {
    while (pool->runs == NULL && !pool->ending)
      pthread_cond_wait(&pool->work, &pool->mutex);
    if (pool->ending)
      break;
    run *r = pool->runs;
    r->num_helpers++;
    pthread_mutex_unlock(&pool->mutex);
    draw_all(r, self->number);
    pthread_mutex_lock(&pool->mutex);
    unlist_run(pool, r);
    if (--r->num_helpers == 0)
      pthread_cond_broadcast(&pool->left);
  }
  pthread_mutex_unlock(&pool->mutex);
  return NULL;
}

void fmlai_pool_run(fmlai_pool *pool, int64_t count, int32_t max_threads, fmlai_pool_function function,
                    void *argument) {
  run r = {.function = function, .argument = argument, .count = count};
  const int64_t most = count < max_threads ? count : max_threads;
  const int64_t wanted = most - 1 < pool->num_workers ? most - 1 : pool->num_workers;
  if (wanted <= 0) {
    draw_all(&r, 0);
    return;
  }
  pthread_mutex_lock(&pool->mutex);
  list_run(pool, &r);
  for (int64_t i = 0; i < wanted; i++)
    pthread_cond_signal(&pool->work);
  pthread_mutex_unlock(&pool->mutex);

  draw_all(&r, 0);

  pthread_mutex_lock(&pool->mutex);
  unlist_run(pool, &r);
  while (r.num_helpers > 0)
    pthread_cond_wait(&pool->left, &pool->mutex);
  pthread_mutex_unlock(&pool->mutex);
}

fmla_status fmlai_pool_create(int32_t num_threads, fmlai_pool **pool) {
  const size_t num_wanted = (size_t)num_threads - 1;
  fmlai_pool *p = calloc(1, sizeof *p + num_wanted * sizeof(worker));
  if (p == NULL)
    return FMLAI_FAIL(FMLA_ERROR_OUT_OF_MEMORY, "no memory for a pool of %d threads", (int)num_threads);
  pthread_mutex_init(&p->mutex, NULL);
  pthread_cond_init(&p->work, NULL);
  pthread_cond_init(&p->left, NULL);

  /* Signals are for the program's own threads, but a fault is the worker's own. */
  static const int faults[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS, SIGABRT};
  sigset_t blocked, before;
  sigfillset(&blocked);
  for (size_t i = 0; i < sizeof faults / sizeof faults[0]; i++)
    sigdelset(&blocked, faults[i]);
  pthread_sigmask(SIG_SETMASK, &blocked, &before);
  pthread_mutex_lock(&p->mutex); /* workers see num_workers whole */
  while ((size_t)p->num_workers < num_wanted) {
    worker *w = &p->workers[p->num_workers];
    *w = (worker){.pool = p, .number = p->num_workers + 1};
    if (pthread_create(&w->thread, NULL, work, w) != 0)
      break; /* fewer threads serve too */
    p->num_workers++;
  }
  pthread_mutex_unlock(&p->mutex);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  *pool = p;
  return FMLA_OK;
}

void fmlai_pool_destroy(fmlai_pool *pool) {
  pthread_mutex_lock(&pool->mutex);
  pool->ending = true;
  pthread_cond_broadcast(&pool->work);
  pthread_mutex_unlock(&pool->mutex);
  for (int32_t i = 0; i < pool->num_workers; i++)
    pthread_join(pool->workers[i].thread, NULL);
  pthread_cond_destroy(&pool->left);
  pthread_cond_destroy(&pool->work);
  pthread_mutex_destroy(&pool->mutex);
  free(pool);
}

int32_t fmlai_pool_num_threads(const fmlai_pool *pool) {
  return pool->num_workers + 1;
}

/* What a container's quota (cgroup v2: microseconds in each period, or "max") leaves of `count`. */
static long within_quota(long count) {
  char line[64] = "";
  FILE *file = fopen("/sys/fs/cgroup/cpu.max", "re");
  if (file == NULL)
    return count;
  char *rest = fgets(line, sizeof line, file);
  fclose(file);
  const long long quota = rest != NULL ? strtoll(line, &rest, 10) : 0;
  const long long period = rest != NULL ? strtoll(rest, NULL, 10) : 0;
  if (quota <= 0 || period <= 0)
    return count;
  const long long allowed = (quota - 1) / period + 1;
  return allowed < count ? (long)allowed : count;
}

int32_t fmlai_available_threads(void) {
  cpu_set_t set;
  const long count = within_quota(sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set)
                                                                              : sysconf(_SC_NPROCESSORS_ONLN));
  if (count < 1)
    return 1;
  return count < FMLA_MAX_THREADS ? (int32_t)count : FMLA_MAX_THREADS;
}
