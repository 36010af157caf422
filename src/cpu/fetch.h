/*
 * Fetching keys into the second cache before they are worked on, some lines now and some then: so memory is
 * busy all the time, and seldom waited for. A window of keys is fetched as many streams side by side, each in
 * pages of its own. The hardware, which runs ahead within a page, then does most of it, and a prefetch mostly
 * finds its line there or on its way: one that waits for memory would hold one of the few buffers that all the
 * other loads need.
 */
#ifndef FMLAI_CPU_FETCH_H
#define FMLAI_CPU_FETCH_H

#include "cpu/key_block.h"
#include "cpu/simd.h"

enum { FETCH_LINE_BYTES = 64, FETCH_STREAMS = 16, FETCH_STREAM_KEYS = 4 };
/* Lines that are fetched at once: few, so that the loads around them need not wait. */
enum { FETCH_BURST = 8 };

enum { FETCH_KEYS = FETCH_STREAMS * FETCH_STREAM_KEYS };

typedef struct fetcher {
  const fmla_decode_params *p;
  const fmlai_plan_tile *tile;
  int64_t begin, end, limit; /* the next window's first key, the item's end, and where windows may begin */
  int32_t lines;             /* of a key */
  int32_t credit;            /* what is owed, in 256ths of a line of each stream */
  int32_t key, line;         /* of each stream: the next */
  int32_t stream;            /* whose line it is */
  fmlai_key_block window;
} fetcher;

static inline void fetch_from(fetcher *f, const fmla_decode_params *p, const fmlai_plan_tile *tile,
                              int64_t begin, int64_t end) {
  const int32_t key_bytes = p->head_dim_k * (int32_t)sizeof(uint16_t);
  f->p = p;
  f->tile = tile;
  f->begin = begin;
  f->end = end;
  f->limit = begin;
  f->lines = (key_bytes + FETCH_LINE_BYTES - 1) / FETCH_LINE_BYTES;
  f->credit = f->line = f->stream = 0;
  f->key = FETCH_STREAM_KEYS;
}

static inline bool begin_window(fetcher *f) {
  if (f->begin >= f->limit || f->begin >= f->end)
    return false;
  fmlai_find_keys(&f->window, f->p, f->tile, f->begin, f->end, FETCH_KEYS, FETCH_KEYS);
  f->begin += FETCH_KEYS;
  f->key = 0;
  return true;
}

/* `rate` 256ths of a line of each stream, as far as the window goes: calls nothing. */
INLINE void fetch_window(fetcher *f, int32_t rate) {
  f->credit += rate * (FETCH_STREAMS / FETCH_BURST);
  for (; f->credit >= 256 && f->key < FETCH_STREAM_KEYS; f->credit -= 256) {
    const void *const *keys = f->window.keys + f->stream * FETCH_STREAM_KEYS + f->key;
    UNROLL for (int i = 0; i < FETCH_BURST; i++)
        __builtin_prefetch((const char *)keys[i * FETCH_STREAM_KEYS] + f->line * FETCH_LINE_BYTES, 0, 2);
    f->stream = (f->stream + FETCH_BURST) % FETCH_STREAMS;
    f->line += f->stream == 0;
    if (f->line == f->lines) {
      f->line = 0;
      f->key++;
    }
  }
}

/* The same, and of the next window. */
INLINE void fetch(fetcher *f, int32_t rate) {
  if (f->key == FETCH_STREAM_KEYS && !begin_window(f))
    f->credit = 0;
  else
    fetch_window(f, rate);
}

#endif
