/*
 * bounds.h: how far a row of a result may lie from the oracle's. The one table of the project.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef VERIFY_BOUNDS_H
#define VERIFY_BOUNDS_H

#include "flash_mla.h"

typedef struct verify_bound {
  double out;       /* on |out - oracle| / max(|oracle|, out_floor), Euclidean norms of a row */
  double out_floor; /* the norm below which errors count as if the row had this norm */
  double lse;       /* on |lse - oracle| */
} verify_bound;

/*
 * The bound for one row that has keys; one without must be exact. `lse` is the oracle's, `score_size` the
 * largest sum_j |q_j k_j| * softmax_scale over the row's keys. `sink_share` is the sink's share of the softmax:
 * the rest, which scales out, is exp(lse) / (exp(lse) + exp(sink)), so an error of the lse is one of out in
 * that share.
 */
verify_bound verify_bound_of_row(int32_t probability_dtype, int32_t out_dtype, int32_t head_dim_v, double lse,
                                 double score_size, double sink_share);

#endif
