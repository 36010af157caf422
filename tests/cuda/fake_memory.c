/*
 * fake_memory.c: the driver's functions for memory, which is the host's.
 *
 * SPDX-License-Identifier: MIT
 */
#include "fake_internal.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

typedef struct link {
  struct link *next, **at;
} link;
enum { LINK_BYTES = 256 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static link *first;

void *fake_allocate(size_t bytes) {
  link *made = aligned_alloc(LINK_BYTES, LINK_BYTES + (bytes + LINK_BYTES - 1) / LINK_BYTES * LINK_BYTES);
  if (made == NULL)
    return NULL;
  pthread_mutex_lock(&lock);
  *made = (link){first, &first};
  if (first != NULL)
    first->at = &made->next;
  first = made;
  pthread_mutex_unlock(&lock);
  return (char *)made + LINK_BYTES;
}

void fake_release(void *memory) {
  link *given = (link *)(void *)((char *)memory - LINK_BYTES);
  pthread_mutex_lock(&lock);
  *given->at = given->next;
  if (given->next != NULL)
    given->next->at = given->at;
  pthread_mutex_unlock(&lock);
  free(given);
}

CUresult fake_cuMemAlloc(void **memory, size_t bytes) {
  RECORD("cuMemAlloc");
  REQUIRE(fake_has_current(), INVALID_CONTEXT);
  REQUIRE(bytes <= fake.free_bytes, CUDA_ERROR_OUT_OF_MEMORY);
  void *allocated = fake_allocate(bytes);
  REQUIRE(allocated != NULL, CUDA_ERROR_OUT_OF_MEMORY);
  fake_count_allocations(1);
  *memory = allocated;
  return CUDA_SUCCESS;
}

CUresult fake_cuMemGetInfo(size_t *free_bytes, size_t *all_bytes) {
  RECORD("cuMemGetInfo");
  REQUIRE(fake_has_current(), INVALID_CONTEXT);
  *free_bytes = *all_bytes = fake.free_bytes;
  return CUDA_SUCCESS;
}

/* The host's memory and the device's are the same here. */
CUresult fake_cuMemHostAlloc(void **memory, size_t bytes, unsigned flags) {
  RECORD("cuMemHostAlloc");
  REQUIRE(fake_has_current(), INVALID_CONTEXT);
  REQUIRE(flags == (CU_MEMHOSTALLOC_PORTABLE | CU_MEMHOSTALLOC_DEVICEMAP), INVALID_VALUE);
  void *allocated = fake_allocate(bytes);
  REQUIRE(allocated != NULL, CUDA_ERROR_OUT_OF_MEMORY);
  fake_count_allocations(1);
  *memory = allocated;
  return CUDA_SUCCESS;
}

CUresult fake_cuMemFreeHost(void *memory) {
  RECORD("cuMemFreeHost");
  REQUIRE(fake_has_current(), INVALID_CONTEXT);
  fake_count_allocations(-1);
  fake_release(memory);
  return CUDA_SUCCESS;
}

CUresult fake_cuMemFree(void *memory) {
  RECORD("cuMemFree");
  REQUIRE(fake_has_current(), INVALID_CONTEXT);
  fake_count_allocations(-1);
  fake_release(memory);
  return CUDA_SUCCESS;
}

CUresult fake_cuMemcpyHtoDAsync(void *to, const void *from, size_t bytes, CUstream stream) {
  (void)stream;
  RECORD("cuMemcpyHtoDAsync");
  REQUIRE(fake_has_current(), INVALID_CONTEXT);
  memcpy(to, from, bytes);
  return CUDA_SUCCESS;
}

CUresult fake_cuMemcpyDtoHAsync(void *to, const void *from, size_t bytes, CUstream stream) {
  (void)stream;
  RECORD("cuMemcpyDtoHAsync");
  REQUIRE(fake_has_current(), INVALID_CONTEXT);
  memcpy(to, from, bytes);
  return CUDA_SUCCESS;
}

CUresult fake_cuMemsetD32Async(void *to, unsigned value, size_t number, CUstream stream) {
  (void)stream;
  RECORD("cuMemsetD32Async");
  REQUIRE(fake_has_current(), INVALID_CONTEXT);
  for (size_t i = 0; i < number; i++)
    ((unsigned *)to)[i] = value;
  return CUDA_SUCCESS;
}
