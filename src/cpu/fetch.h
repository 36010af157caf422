/*
 * Fetching the keys of the next block while this one is worked on, some lines now and some then: so memory is
 * busy all the time, and seldom waited for.
 */
#ifndef FMLAI_CPU_FETCH_H
#define FMLAI_CPU_FETCH_H

#include "cpu/key_block.h"

enum { FETCH_LINE_BYTES = 64 };

typedef struct fetcher {
  const fmlai_key_block *block;
  int32_t key_bytes;
  int32_t key, at; /* what comes next */
} fetcher;

static inline fetcher fetch_from(const fmlai_key_block *block, int32_t key_bytes) {
  return (fetcher){.block = block, .key_bytes = key_bytes};
}

/* The next `lines` of them, or those that are left. */
static inline void fetch_lines(fetcher *f, int32_t lines) {
  for (; lines > 0 && f->key < f->block->count; lines--) {
    __builtin_prefetch((const char *)f->block->keys[f->key] + f->at, 0, 2);
    f->at += FETCH_LINE_BYTES;
    if (f->at >= f->key_bytes) {
      f->at = 0;
      f->key++;
    }
  }
}

#endif
