/*
 * compare.h: holds the result of a call against the oracle, row by row, within the table of bounds.h.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef VERIFY_COMPARE_H
#define VERIFY_COMPARE_H

#include "flash_mla.h"

/* A row is one query token and one head: head_dim_v elements of out and one of lse. */
typedef struct verify_report {
  int64_t rows;
  int64_t failed_rows;
  double worst_out_error; /* relative L2 norm of the error of a row of out */
  double worst_lse_error; /* |error| / max(1, |lse|) */
  double worst_ratio;     /* error / bound, of out and lse; above 1 is a failure, NaN counts as infinity */

  /* The first failing row; only where failed_rows > 0. */
  int32_t sequence; /* -1: a row past cu_seqlens_q[batch_size] */
  int64_t token;    /* query token within its sequence; for sequence -1 the row of q */
  int32_t head;

  char message[256]; /* one sentence: what was compared, or how the first failing row failed */
} verify_report;

/*
 * Compares params->out and params->lse (NULL: not compared), as a decode left them, with the oracle. Every
 * pointer is to host memory. `probability_dtype` is that of the kernel that ran (fmla_kernel_info).
 * Returns 0 when the comparison was made, whatever it found, and -1 when memory ran out.
 */
int verify_decode(const fmla_decode_params *params, fmla_dtype probability_dtype, verify_report *report);

/* The same for fmla_merge. */
int verify_merge(const fmla_merge_params *params, verify_report *report);

#endif
