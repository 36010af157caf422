/*
 * fake_internal.h: what the files of the fake driver share.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef CUDA_FAKE_INTERNAL_H
#define CUDA_FAKE_INTERNAL_H

#include "fake_cuda.h"

#include "cuda/driver.h"

enum {
  INVALID_VALUE = 1,
  NOT_INITIALIZED = 3,
  INVALID_DEVICE = 101,
  INVALID_CONTEXT = 201,
  INVALID_HANDLE = 400
};

/* Graphs are lists of launches. */
struct CUstream_st {
  bool is_captured; /* by fake_capture */
  CUgraph graph;    /* that is being captured, or NULL */
};

CUresult fake_append(CUgraph graph, const fake_launch *launch);

/* Leaves the record of a launch, and makes it. */
void fake_run(const fake_launch *launch, void **parameters);

/*
 * Memory that stays on a list until it is released: what was not given back because giving back failed is then
 * no leak of the test's to a sanitizer. What is there is counted elsewhere.
 */
void *fake_allocate(size_t bytes);
void fake_release(void *memory);

void fake_count_allocations(int by);
void fake_count_events(int by);
void fake_count_graphs(int by);
bool fake_has_current(void);

CUresult fake_record(const char *call);

/* The beginning of a call: it is recorded and may be the one to fail. */
#define RECORD(call)                                                                                           \
  do {                                                                                                         \
    const CUresult injected = fake_record(call);                                                               \
    if (injected != CUDA_SUCCESS)                                                                              \
      return injected;                                                                                         \
  } while (0)

#define REQUIRE(condition, result)                                                                             \
  do {                                                                                                         \
    if (!(condition))                                                                                          \
      return (result);                                                                                         \
  } while (0)

#define EXPORT __attribute__((visibility("default")))

/* Every function of the table, so that its types are checked. */
#define X(name, symbol, parameters) EXPORT CUresult fake_##name parameters __asm__(symbol);
FMLAI_CUDA_REQUIRED(X)
FMLAI_CUDA_OPTIONAL(X)
FMLAI_CUDA_OF_PROBE(X)
#undef X

#endif
