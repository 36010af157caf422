/*
 * compare.c: rows of a result against rows of the oracle's.
 *
 * SPDX-License-Identifier: MIT
 */
#include "compare.h"

#include "bounds.h"
#include "number.h"
#include "oracle.h"
#include "shape.h"

#include <math.h>
#include <stdbool.h>
#include <stdio.h>

typedef struct row_check {
  double out_error; /* as a share of the row's norm */
  double lse_error; /* absolute */
  verify_bound bound;
  bool empty; /* the row has no keys */
  bool exact; /* ... and is as such a row must be */
} row_check;

static double lse_scale(double lse) {
  return fmax(1, fabs(lse));
}

/* A NaN is as wrong as can be. */
static double ratio(double error, double bound) {
  double r = error == 0 ? 0 : error / bound;
  return isnan(r) ? HUGE_VAL : r;
}

/* Checks a row of `out` and its lse, which may be NULL, against row `row` of the truth. */
static row_check check_row(const verify_truth *truth, int64_t row, int32_t probability_dtype, int32_t out_dtype,
                           const void *out, int64_t out_offset, const float *lse) {
  const double *true_out = truth->out + row * truth->head_dim_v;
  double true_lse = truth->lse[row], squares = 0, error_squares = 0;
  bool zero = true;
  for (int32_t j = 0; j < truth->head_dim_v; j++) {
    double value = verify_load(out_dtype, out, out_offset + j);
    zero = zero && value == 0;
    squares += true_out[j] * true_out[j];
    error_squares += (value - true_out[j]) * (value - true_out[j]);
  }
  row_check check = {.empty = isinf(true_lse) != 0};
  check.exact = zero && (lse == NULL || (double)*lse == true_lse);
  check.bound = verify_bound_of_row(probability_dtype, out_dtype, truth->head_dim_v, true_lse,
                                    truth->score_size[row], truth->sink_share[row]);
  check.out_error = sqrt(error_squares) / fmax(sqrt(squares), check.bound.out_floor);
  check.lse_error = lse == NULL || check.empty ? 0 : fabs((double)*lse - true_lse);
  return check;
}

static double worst_ratio(const row_check *check) {
  if (check->empty)
    return check->exact ? 0 : HUGE_VAL;
  return fmax(ratio(check->out_error, check->bound.out), ratio(check->lse_error, check->bound.lse));
}

static double larger(double worst, double error) {
  return isnan(error) ? HUGE_VAL : fmax(worst, error);
}

static void describe_failure(const row_check *check, verify_report *report) {
  char where[96];
  if (report->sequence < 0)
    snprintf(where, sizeof where, "row %lld of q (past the last sequence), head %d", (long long)report->token,
             (int)report->head);
  else
    snprintf(where, sizeof where, "sequence %d, query token %lld, head %d", (int)report->sequence,
             (long long)report->token, (int)report->head);
  if (check->empty)
    snprintf(report->message, sizeof report->message,
             "%s has no keys, but its out is not all zeros or its lse not the infinity of an empty row", where);
  else if (ratio(check->out_error, check->bound.out) > 1)
    snprintf(report->message, sizeof report->message, "%s: out is off by %.3g of its norm, %.3g is allowed",
             where, check->out_error, check->bound.out);
  else
    snprintf(report->message, sizeof report->message, "%s: lse is off by %.3g, %.3g is allowed", where,
             check->lse_error, check->bound.lse);
}

static void add_row(verify_report *report, const row_check *check, double lse, const verify_query *query,
                    int32_t head) {
  double worst = worst_ratio(check);
  report->rows++;
  report->worst_ratio = fmax(report->worst_ratio, worst);
  report->worst_out_error = larger(report->worst_out_error, check->out_error);
  if (!check->empty)
    report->worst_lse_error = larger(report->worst_lse_error, check->lse_error / lse_scale(lse));
  if (worst <= 1)
    return;
  if (report->failed_rows++ == 0) {
    report->sequence = query->sequence;
    report->token = query->token;
    report->head = head;
    describe_failure(check, report);
  }
}

static void finish(verify_report *report) {
  if (report->failed_rows == 0)
    snprintf(report->message, sizeof report->message, "all %lld rows agree, the worst at %.2g of its bound",
             (long long)report->rows, report->worst_ratio);
}

int verify_decode(const fmla_decode_params *params, fmla_dtype probability_dtype, verify_report *report) {
  *report = (verify_report){0};
  verify_truth truth;
  if (verify_oracle_decode(params, &truth) != 0)
    return -1;
  fmla_decode_params p = *params;
  verify_resolve_decode(&p);
  for (int64_t row = 0; row < truth.num_rows; row++) {
    verify_query query = verify_query_at(&p, row / truth.num_heads);
    int32_t head = (int32_t)(row % truth.num_heads);
    const float *lse = p.lse == NULL ? NULL : p.lse + verify_lse_offset(&p, &query, head);
    row_check check = check_row(&truth, row, (int32_t)probability_dtype, p.out_dtype, p.out,
                                verify_out_offset(&p, &query, head), lse);
    add_row(report, &check, truth.lse[row], &query, head);
  }
  finish(report);
  verify_truth_free(&truth);
  return 0;
}

int verify_merge(const fmla_merge_params *params, verify_report *report) {
  *report = (verify_report){0};
  verify_truth truth;
  if (verify_oracle_merge(params, &truth) != 0)
    return -1;
  fmla_merge_params p = *params;
  verify_resolve_merge(&p);
  for (int64_t row = 0; row < truth.num_rows; row++) {
    int32_t head = (int32_t)(row % truth.num_heads);
    int64_t query_row = row / truth.num_heads;
    verify_query query = {.sequence = (int32_t)(query_row / p.seqlen_q), .token = query_row % p.seqlen_q};
    const float *lse = p.lse == NULL ? NULL
                                     : p.lse + query.sequence * p.lse_stride_batch +
                                           query.token * p.lse_stride_token + head * p.lse_stride_head;
    row_check check = check_row(
        &truth, row, FMLA_DTYPE_FP32, p.out_dtype, p.out,
        query.sequence * p.out_stride_batch + query.token * p.out_stride_token + head * p.out_stride_head, lse);
    add_row(report, &check, truth.lse[row], &query, head);
  }
  finish(report);
  verify_truth_free(&truth);
  return 0;
}
