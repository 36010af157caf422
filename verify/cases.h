/*
 * cases.h: descriptions of decode steps: a table of extremes, and seeded random ones. A description and its
 * seed say everything about the step that step.h builds from it.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef VERIFY_CASES_H
#define VERIFY_CASES_H

#include "flash_mla.h"

#include <stdbool.h>

/* The tokens of the sequences, out of `longest`. */
typedef enum verify_lengths {
  VERIFY_LENGTHS_FULL,     /* longest each */
  VERIFY_LENGTHS_RANDOM,   /* 0 .. longest */
  VERIFY_LENGTHS_EDGES,    /* 0, 1, and one page or tile more or less a token, as far as longest allows */
  VERIFY_LENGTHS_ONE_HUGE, /* longest once, 0 .. 3 for the others */
  VERIFY_LENGTHS_COUNT
} verify_lengths;

/* What q and the cache hold. */
typedef enum verify_data {
  VERIFY_DATA_NORMAL,   /* scores of about +-1 */
  VERIFY_DATA_CONSTANT, /* all keys alike */
  VERIFY_DATA_PEAKED,   /* scores of about +-8: a few keys win */
  VERIFY_DATA_LARGE,    /* scores of about +-900 */
  VERIFY_DATA_TINY,     /* down to subnormal elements */
  VERIFY_DATA_NEEDLE,   /* each row's weight on one key at an edge of a page, tile, split or mask */
  VERIFY_DATA_COUNT
} verify_data;

typedef enum verify_strides {
  VERIFY_STRIDES_PACKED, /* FMLA_PACKED */
  VERIFY_STRIDES_SPELT,  /* the same in numbers */
  VERIFY_STRIDES_GAPS,   /* dimensions in another order, with gaps between rows */
  VERIFY_STRIDES_MIXED,  /* a gap behind each row, and FMLA_PACKED for the slower dimensions */
  VERIFY_STRIDES_REPEAT, /* one query and one row of the block table for the whole batch: strides of 0 */
  VERIFY_STRIDES_FAR     /* pages and sequences so far apart that 32 bits do not count it; never random */
} verify_strides;

typedef enum verify_sink {
  VERIFY_SINK_NONE,
  VERIFY_SINK_NEAR,    /* about as large as the lse of normal scores */
  VERIFY_SINK_EXTREME, /* among them -inf, and values that leave nothing of out */
  VERIFY_SINK_COUNT
} verify_sink;

/* An extent of 0 stands for the value in brackets. */
typedef struct verify_case {
  const char *name; /* of a case of the table; else NULL */
  uint64_t seed;

  int32_t batch_size;
  int32_t num_q_heads;     /* [16] */
  int32_t num_kv_heads;    /* [1] */
  int32_t head_dim_k;      /* [576] */
  int32_t head_dim_v;      /* [512, or head_dim_k if smaller] */
  int32_t head_dim_rope;   /* q in two tensors; 0: in one */
  int32_t max_seqlen_q;    /* [1] */
  int32_t page_size;       /* [64] */
  int32_t longest;         /* tokens of the longest sequence */
  int32_t stride_multiple; /* that chosen strides of q, cache and out are, in elements [1] */

  verify_lengths lengths;
  verify_data data;
  verify_strides strides;
  verify_sink sink;
  uint32_t flags;
  int32_t dtype;       /* of q and the cache [BF16] */
  int32_t out_dtype;   /* [BF16] */
  float softmax_scale; /* [head_dim_k^-0.5] */

  bool varlen;       /* cu_seqlens_q: 0 .. max_seqlen_q queries a sequence, and rows behind the last */
  bool shared_pages; /* sequences share pages */
  bool no_lse;
} verify_case;

/* The table of extremes. */
int verify_num_extreme_cases(void);
verify_case verify_extreme_case(int index);

/* Whether a case takes little work even where each instruction takes a hundred times as long. */
bool verify_is_quick_case(const verify_case *c);

/* A random case; small enough to compute in a fraction of a second. */
verify_case verify_random_case(uint64_t seed);

/* One line without an end: every extent and choice. Returns `text`. */
char *verify_describe_case(const verify_case *c, char *text, size_t bytes);

#endif
