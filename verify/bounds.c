/*
 * bounds.c: the table of error bounds.
 *
 * The input's type is not in it: the oracle reads the same BF16 or FP16 values, and the product of two such
 * values is exact in FP32.
 *
 * SPDX-License-Identifier: MIT
 */
#include "bounds.h"

#include <math.h>

/* clang-format off */
static const struct {
  int32_t probability;
  int32_t out;
  double bound; /* relative, Euclidean norm of a row */
} out_bounds[] = {
    /* An element is rounded by 2^-8 (3.9e-3) of itself at most in BF16, 2^-11 (4.9e-4) in FP16, 2^-24 in
       FP32; so is a probability, and their errors partly cancel in the sum. */
    {FMLA_DTYPE_FP32, FMLA_DTYPE_FP32, 1e-5},
    {FMLA_DTYPE_FP32, FMLA_DTYPE_FP16, 1e-3},
    {FMLA_DTYPE_FP32, FMLA_DTYPE_BF16, 4e-3},
    {FMLA_DTYPE_FP16, FMLA_DTYPE_FP32, 1e-3},
    {FMLA_DTYPE_FP16, FMLA_DTYPE_FP16, 1e-3},
    {FMLA_DTYPE_FP16, FMLA_DTYPE_BF16, 4e-3},
    {FMLA_DTYPE_BF16, FMLA_DTYPE_FP32, 4e-3},
    {FMLA_DTYPE_BF16, FMLA_DTYPE_FP16, 4e-3},
    /* Where one key has nearly all the weight, nothing cancels: 3.9e-3 at most from its probability, and 1.7e-3 from
       elements' roundings in a row, which is independent. */
    {FMLA_DTYPE_BF16, FMLA_DTYPE_BF16, 4.3e-3},
};
/* clang-format on */

#define LSE_BOUND 1e-5 /* relative to max(1, |lse|) */

/*
 * A score is a sum of head_dim_k products in FP32. Large terms may cancel in it, so its error follows not its
 * value but score_size, the sum of the terms' magnitudes. It is an error of the lse, and a relative error of a
 * probability. With FP32's unit of 2^-24 and independent roundings, the error of the sum in a few vector lanes
 * is one or two units of score_size, more only if one term leads all others; the portable kernel's worst of
 * 5000 random cases was 2.6 beside the bounds above.
 */
#define SCORE_ERROR (4 * 0x1p-24)

/*
 * Below the smallest normal FP16, 2^-14, errors are absolute. With the range of FP32 the same holds where
 * matrix units flush products below 2^-126 to zero: thousands of those still sum to nothing beside 2^-90.
 */
static double smallest_element(int32_t out_dtype) {
  return out_dtype == FMLA_DTYPE_FP16 ? 0x1p-14 : 0x1p-90;
}

verify_bound verify_bound_of_row(int32_t probability_dtype, int32_t out_dtype, int32_t head_dim_v, double lse,
                                 double score_size, double sink_share) {
  verify_bound bound = {.out = 0, .out_floor = sqrt((double)head_dim_v) * smallest_element(out_dtype)};
  bound.lse = LSE_BOUND * fmax(1, fabs(lse)) + SCORE_ERROR * score_size;
  for (size_t i = 0; i < sizeof out_bounds / sizeof out_bounds[0]; i++)
    if (out_bounds[i].probability == probability_dtype && out_bounds[i].out == out_dtype)
      bound.out = out_bounds[i].bound + SCORE_ERROR * score_size + sink_share * bound.lse;
  return bound;
}
