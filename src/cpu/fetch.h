/*
 * Fetching keys into the second cache before they are worked on, some lines now and some then: so memory is
 * busy all the time, and seldom waited for.
 */
#ifndef FMLAI_CPU_FETCH_H
#define FMLAI_CPU_FETCH_H

#include "kv_cache.h"
#include "numeric.h"
#include "plan.h"

enum { FETCH_LINE_BYTES = 64 };

typedef struct fetcher {
  const fmla_decode_params *p;
  const fmlai_plan_tile *tile;
  int64_t key_bytes;
  int64_t key, limit;   /* keys from `key` to `limit` are to be fetched after this stretch */
  const char *at, *end; /* what is left of a stretch of memory */
} fetcher;

static inline fetcher fetch_from(const fmla_decode_params *p, const fmlai_plan_tile *tile, int64_t begin) {
  return (fetcher){.p = p,
                   .tile = tile,
                   .key_bytes = p->head_dim_k * (int64_t)sizeof(uint16_t),
                   .key = begin,
                   .limit = begin};
}

/* The next stretch: the keys that follow each other in a page, or one key. */
static inline void begin_stretch(fetcher *f) {
  const int64_t stride = f->p->kv_stride_token * (int64_t)sizeof(uint16_t);
  int64_t run;
  f->at = fmlai_kv_entry(f->p, f->tile->batch, f->tile->kv_head, f->key, &run);
  if (stride != f->key_bytes)
    run = 1;
  if (run > f->limit - f->key)
    run = f->limit - f->key;
  f->end = f->at + run * f->key_bytes;
  f->key += run;
}

/* The next `lines` of them, or those that are left. */
static inline void fetch_lines(fetcher *f, int32_t lines) {
  while (lines > 0) {
    if (f->at >= f->end) {
      if (f->key >= f->limit)
        return;
      begin_stretch(f);
    }
    const char *at = f->at, *const end = f->end;
    for (; lines > 0 && at < end; lines--, at += FETCH_LINE_BYTES)
      __builtin_prefetch(at, 0, 2);
    f->at = at;
  }
}

#endif
