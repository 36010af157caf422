/*
 * guard.c: one mapping for each buffer:
 *
 *   | its length | no access | the buffer's pages | no access |
 *
 * The buffer begins in the first of its pages (one without bytes: at the second guard), so its mapping is found
 * from its address.
 *
 * SPDX-License-Identifier: MIT
 */
#include "guard.h"

#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define MOST_TO_FILL ((size_t)1 << 30)

static size_t page_bytes(void) {
  return (size_t)sysconf(_SC_PAGESIZE);
}

void *verify_guard_alloc(size_t bytes, verify_guard_side side) {
  size_t page = page_bytes();
  if (bytes > SIZE_MAX - 4 * page)
    return NULL;
  size_t data = (bytes + page - 1) / page * page;
  size_t length = data + 3 * page;
  unsigned char *map = mmap(NULL, length, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (map == MAP_FAILED)
    return NULL;
  unsigned char *first = map + 2 * page;
  if (mprotect(map, page, PROT_READ | PROT_WRITE) != 0 ||
      (data > 0 && mprotect(first, data, PROT_READ | PROT_WRITE) != 0)) {
    munmap(map, length);
    return NULL;
  }
  memcpy(map, &length, sizeof length);
  unsigned char *buffer = side == VERIFY_GUARD_BEFORE ? first : first + data - bytes;
  if (bytes <= MOST_TO_FILL)
    memset(buffer, 0xff, bytes);
  return buffer;
}

/* The mapping of a buffer and its length. */
static unsigned char *mapping_of(void *buffer, size_t *length) {
  size_t page = page_bytes();
  unsigned char *map = (unsigned char *)buffer - (uintptr_t)buffer % page - 2 * page;
  memcpy(length, map, sizeof *length);
  return map;
}

void verify_guard_read_only(void *buffer) {
  size_t length, page = page_bytes();
  unsigned char *map = mapping_of(buffer, &length);
  mprotect(map + 2 * page, length - 3 * page, PROT_READ);
}

void verify_guard_free(void *buffer) {
  if (buffer == NULL)
    return;
  size_t length;
  unsigned char *map = mapping_of(buffer, &length);
  munmap(map, length);
}
