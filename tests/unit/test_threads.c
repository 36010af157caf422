/*
 * test_threads.c: the thread pool by itself.
 *
 * SPDX-License-Identifier: MIT
 */
#include "cpu/threads.h"

#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

enum { MAX_COUNT = 3000, MAX_POOL = 9 };

/* How often each index was met, and by how many at once on each thread number. */
typedef struct tally {
  atomic_int met[MAX_COUNT];
  atomic_int on_thread[MAX_POOL];
  atomic_int faults;
  int32_t num_threads;
} tally;

static void count_index(void *argument, int64_t index, int32_t thread) {
  tally *t = argument;
  if (thread < 0 || thread >= t->num_threads || index < 0 || index >= MAX_COUNT) {
    atomic_fetch_add(&t->faults, 1);
    return;
  }
  if (atomic_fetch_add(&t->on_thread[thread], 1) != 0)
    atomic_fetch_add(&t->faults, 1); /* two threads with one number, in one run */
  atomic_fetch_add(&t->met[index], 1);
  atomic_fetch_sub(&t->on_thread[thread], 1);
}

/* Runs `count` indices; true if each was met once. */
static bool run_and_check(fmlai_pool *pool, tally *t, int64_t count) {
  for (int i = 0; i < MAX_COUNT; i++)
    atomic_store(&t->met[i], 0);
  t->num_threads = fmlai_pool_num_threads(pool);
  fmlai_pool_run(pool, count, FMLA_MAX_THREADS, count_index, t);
  for (int i = 0; i < MAX_COUNT; i++)
    if (atomic_load(&t->met[i]) != (i < count))
      return false;
  return atomic_load(&t->faults) == 0;
}

static fmlai_pool *new_pool(int32_t num_threads) {
  fmlai_pool *pool = NULL;
  assert_int_equal(fmlai_pool_create(num_threads, &pool), FMLA_OK);
  assert_int_equal(fmlai_pool_num_threads(pool), num_threads);
  return pool;
}

static void test_every_index_once(void **state) {
  (void)state;
  static tally t;
  static const int64_t counts[] = {0, 1, 2, 3, 8, 9, 10, 63, 64, 1000, MAX_COUNT};
  for (int32_t threads = 1; threads <= MAX_POOL; threads++) {
    fmlai_pool *pool = new_pool(threads);
    for (int repeat = 0; repeat < 20; repeat++)
      for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
        assert_true(run_and_check(pool, &t, counts[i]));
    fmlai_pool_destroy(pool);
  }
}

/* An index that waits until all threads of the pool are at work: they do take part. */
typedef struct meeting {
  atomic_int present;
  int32_t expected;
} meeting;

static void meet(void *argument, int64_t index, int32_t thread) {
  (void)index;
  (void)thread;
  meeting *m = argument;
  atomic_fetch_add(&m->present, 1);
  while (atomic_load(&m->present) < m->expected)
    sched_yield();
}

static void test_all_threads_take_part(void **state) {
  (void)state;
  fmlai_pool *pool = new_pool(MAX_POOL);
  for (int32_t expected = 1; expected <= MAX_POOL; expected++) {
    meeting m = {.expected = expected};
    fmlai_pool_run(pool, expected, FMLA_MAX_THREADS, meet, &m);
    assert_int_equal(atomic_load(&m.present), expected);
  }
  fmlai_pool_destroy(pool);
}

/* ---- Runs from several threads -------------------------------------------------------------------------- */

typedef struct caller {
  fmlai_pool *pool;
  tally tally;
  bool right;
} caller;

static void *call_often(void *argument) {
  caller *c = argument;
  c->right = true;
  for (int i = 0; i < 200; i++)
    c->right = run_and_check(c->pool, &c->tally, 1 + i * 7 % 200) && c->right;
  return NULL;
}

static void test_concurrent_runs(void **state) {
  (void)state;
  enum { CALLERS = 4 };
  static caller callers[CALLERS];
  fmlai_pool *pools[2] = {new_pool(3), new_pool(4)};
  pthread_t threads[CALLERS];
  for (int i = 0; i < CALLERS; i++) {
    callers[i].pool = pools[i % 2];
    assert_int_equal(pthread_create(&threads[i], NULL, call_often, &callers[i]), 0);
  }
  for (int i = 0; i < CALLERS; i++)
    assert_int_equal(pthread_join(threads[i], NULL), 0);
  for (int i = 0; i < CALLERS; i++)
    assert_true(callers[i].right);
  fmlai_pool_destroy(pools[0]);
  fmlai_pool_destroy(pools[1]);
}

/* A run whose indices run another pool, as a callback of one context that decodes with another would. */
typedef struct nesting {
  fmlai_pool *inner;
  atomic_int inner_indices;
} nesting;

static void count_inner(void *argument, int64_t index, int32_t thread) {
  (void)index;
  (void)thread;
  atomic_fetch_add((atomic_int *)argument, 1);
}

static void run_inner(void *argument, int64_t index, int32_t thread) {
  (void)index;
  (void)thread;
  nesting *n = argument;
  fmlai_pool_run(n->inner, 10, FMLA_MAX_THREADS, count_inner, &n->inner_indices);
}

static void test_nested_pools(void **state) {
  (void)state;
  fmlai_pool *outer = new_pool(3);
  nesting n = {.inner = new_pool(2)};
  for (int i = 0; i < 100; i++)
    fmlai_pool_run(outer, 5, FMLA_MAX_THREADS, run_inner, &n);
  assert_int_equal(atomic_load(&n.inner_indices), 100 * 5 * 10);
  fmlai_pool_destroy(n.inner);
  fmlai_pool_destroy(outer);
}

/* ---- Idle threads and signals --------------------------------------------------------------------------- */

static double process_cpu_seconds(void) {
  struct timespec t;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* A pool that has worked uses no processor time until it works again. */
static void test_idle_pools_sleep(void **state) {
  (void)state;
  static tally t;
  fmlai_pool *pool = new_pool(4);
  assert_true(run_and_check(pool, &t, MAX_COUNT));
  const struct timespec settle = {.tv_nsec = 20000000}, nap = {.tv_nsec = 300000000};
  nanosleep(&settle, NULL); /* the last woken threads find nothing to do */
  const double before = process_cpu_seconds();
  nanosleep(&nap, NULL);
  assert_true(process_cpu_seconds() - before < 0.03); /* one spinning thread would use 0.3 */
  fmlai_pool_destroy(pool);
}

typedef struct masks {
  meeting meeting; /* so that every thread is asked */
  atomic_int asked_on[MAX_POOL];
  atomic_int open_signals[MAX_POOL];
} masks;

/* Signals that a program sends; those of faults belong to the thread that causes them. */
static const int program_signals[] = {SIGINT, SIGTERM, SIGHUP, SIGALRM, SIGUSR1, SIGCHLD, SIGPROF, SIGWINCH};

static void ask_mask(void *argument, int64_t index, int32_t thread) {
  masks *m = argument;
  sigset_t blocked;
  pthread_sigmask(SIG_BLOCK, NULL, &blocked);
  for (size_t i = 0; i < sizeof program_signals / sizeof *program_signals; i++)
    if (!sigismember(&blocked, program_signals[i]))
      atomic_fetch_add(&m->open_signals[thread], 1);
  atomic_fetch_add(&m->asked_on[thread], 1);
  meet(&m->meeting, index, thread);
}

static void test_workers_block_signals(void **state) {
  (void)state;
  enum { THREADS = 4, OPEN = sizeof program_signals / sizeof *program_signals };
  fmlai_pool *pool = new_pool(THREADS);
  masks m = {.meeting = {.expected = THREADS}};
  fmlai_pool_run(pool, THREADS, FMLA_MAX_THREADS, ask_mask, &m);
  for (int i = 0; i < THREADS; i++) {
    assert_int_equal(atomic_load(&m.asked_on[i]), 1);
    assert_int_equal(atomic_load(&m.open_signals[i]), i == 0 ? (int)OPEN : 0); /* the caller's stay open */
  }
  fmlai_pool_destroy(pool);
}

static void test_available_threads(void **state) {
  (void)state;
  cpu_set_t all, one;
  assert_int_equal(sched_getaffinity(0, sizeof all, &all), 0);
  assert_in_range(fmlai_available_threads(), 1, CPU_COUNT(&all)); /* a quota may leave fewer */
  CPU_ZERO(&one);
  for (size_t cpu = 0; cpu < CPU_SETSIZE && CPU_COUNT(&one) == 0; cpu++)
    if (CPU_ISSET(cpu, &all))
      CPU_SET(cpu, &one);
  assert_int_equal(sched_setaffinity(0, sizeof one, &one), 0);
  assert_int_equal(fmlai_available_threads(), 1);
  assert_int_equal(sched_setaffinity(0, sizeof all, &all), 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_every_index_once),  cmocka_unit_test(test_all_threads_take_part),
      cmocka_unit_test(test_concurrent_runs),   cmocka_unit_test(test_nested_pools),
      cmocka_unit_test(test_idle_pools_sleep),  cmocka_unit_test(test_workers_block_signals),
      cmocka_unit_test(test_available_threads),
  };
  return cmocka_run_group_tests_name("threads", tests, NULL, NULL);
}
