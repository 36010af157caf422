/*
 * A small pool of threads. Each context has its own; several calls may use it at once. Threads sleep between
 * calls.
 */
#ifndef FMLAI_CPU_THREADS_H
#define FMLAI_CPU_THREADS_H

#include "flash_mla.h"

typedef struct fmlai_pool fmlai_pool;

/* Work on one index. `thread` is 0 .. num_threads - 1 and differs between threads that work on the same run. */
typedef void (*fmlai_pool_function)(void *argument, int64_t index, int32_t thread);

/* A pool for the calling thread and num_threads - 1 more; fewer where they cannot be created. */
fmla_status fmlai_pool_create(int32_t num_threads, fmlai_pool **pool);
/* No run may be in flight. */
void fmlai_pool_destroy(fmlai_pool *pool);

/* The threads that a run may use, the caller's included. */
int32_t fmlai_pool_num_threads(const fmlai_pool *pool);

/* Calls function(argument, index, thread) for every index in 0 .. count - 1 and returns when all are done.
   Wakes threads for up to max_threads in all; others that are awake may join. */
void fmlai_pool_run(fmlai_pool *pool, int64_t count, int32_t max_threads, fmlai_pool_function function,
                    void *argument);

/* The hardware threads that this process may use. */
int32_t fmlai_available_threads(void);

#endif
