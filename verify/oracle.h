/*
 * oracle.h: fmla_decode and fmla_merge in double precision, as a textbook has them. Shares no code with the
 * library.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef VERIFY_ORACLE_H
#define VERIFY_ORACLE_H

#include "flash_mla.h"

/* The true result: row r is query token r / num_heads, head r % num_heads. */
typedef struct verify_truth {
  int64_t num_rows;
  int32_t num_heads;
  int32_t head_dim_v;
  double *out;        /* [num_rows, head_dim_v] */
  double *lse;        /* [num_rows] */
  double *score_size; /* [num_rows]: how large the terms of the scores are, see bounds.h */
  double *sink_share; /* [num_rows]: exp(sink) / (exp(lse) + exp(sink)), 0 without a sink */
} verify_truth;

/* `params` is a valid call with host pointers; the outputs are not looked at. Returns 0, or -1 when memory
   ran out. Uses several threads where the machine has them. */
int verify_oracle_decode(const fmla_decode_params *params, verify_truth *truth);

/* At most so many threads for a call from now on, for callers that run several at once. */
void verify_oracle_limit_threads(int threads);

/* The score of a part is its lse: score_size is the largest |lse| of the row's parts. */
int verify_oracle_merge(const fmla_merge_params *params, verify_truth *truth);

void verify_truth_free(verify_truth *truth);

#endif
