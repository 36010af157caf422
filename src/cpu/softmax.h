/*
 * The running softmax of a block of LANES rows, a lane each, for the bodies of kernels, which define vectors
 * and store_probabilities() before they include it. Everything is in powers of 2.
 *
 * Probabilities are exp2(score - reference), where a row's reference follows its largest score only when that
 * has grown by more than SLACK. So o is rescaled seldom, and a probability is 2^SLACK at most.
 */
#ifndef FMLAI_CPU_SOFTMAX_H
#define FMLAI_CPU_SOFTMAX_H

#include <math.h>

#define SLACK 8.0f
#define LOG2E 1.44269504f
#define LN2   0.693147181f

/* 2^x for x up to 2^7 within 2e-7, 0 below the smallest normal number. */
INLINE vec vec_exp2(vec x) {
  const vec magic = vec_set(0x1.8p23f); /* adding it rounds to an integer, which the low bits then hold */
  const vec magic_sum = vec_add(x, magic);
  const vec f = vec_sub(x, vec_sub(magic_sum, magic));
  /* The polynomial of least relative error on [-1/2, 1/2], with 1 at 0. */
  vec v = vec_fma(f, vec_set(0.00132764718f), vec_set(0.00967554133f));
  v = vec_fma(f, v, vec_set(0.0555071327f));
  v = vec_fma(f, v, vec_set(0.240221197f));
  v = vec_fma(f, v, vec_set(0.693146967f));
  v = vec_fma(f, v, vec_set(1));
  return vec_scale_by_power(v, magic_sum, x, vec_set(-126));
}

/* Scores of keys that a row does not see become -inf. `smallest` is the least of `limits`. */
INLINE void mask_scores(float *scores, const float *limits, int32_t smallest, int32_t padded) {
  for (int32_t t = smallest; t < padded; t++) {
    float *at = scores + (size_t)t * LANES;
    vec_store(at, vec_where_greater(vec_load(limits), vec_set((float)t), vec_load(at), vec_set(-INFINITY)));
  }
}

INLINE vec largest_score(const float *scores, int32_t count) {
  vec a = vec_set(-INFINITY), b = a;
  int32_t t = 0;
  for (; t + 2 <= count; t += 2) {
    a = vec_max(a, vec_load(scores + (size_t)t * LANES));
    b = vec_max(b, vec_load(scores + (size_t)(t + 1) * LANES));
  }
  if (t < count)
    a = vec_max(a, vec_load(scores + (size_t)t * LANES));
  return vec_max(a, b);
}

/* Scores [count][LANES] of an even count of keys on their way into the rows' running softmax. */
typedef struct score_job {
  const float *scores;
  float *probabilities; /* may be in the scores' place */
  int32_t count, at;    /* keys, and how many of them are done */
  float *sum, *weight;  /* the rows' */
  vec scales, shift;    /* a probability is exp2(score * scale + shift) */
  vec sums[2], weights; /* of the keys that are done */
  vec largest;          /* score * scale + shift of them */
} score_job;

/* With the references as they are. */
INLINE void keep_references(score_job *job, const float *scores, float *probabilities, int32_t count,
                            float scale, const float *reference, float *sum, float *weight) {
  const vec now = vec_load(reference), none = vec_set(-INFINITY);
  *job = (score_job){.scores = scores,
                     .probabilities = probabilities,
                     .count = count,
                     .sum = sum,
                     .weight = weight,
                     .scales = vec_set(scale),
                     .shift = vec_where_greater(now, none, vec_sub(vec_zero(), now), vec_zero()),
                     .sums = {vec_zero(), vec_zero()},
                     .weights = vec_zero(),
                     .largest = none};
}

/*
 * Moves the rows' references as these scores demand. `scale` turns scores into powers of 2. Returns whether
 * some row's o must be multiplied by its factor.
 */
INLINE bool move_references(const float *scores, int32_t count, float scale, float *reference, float *sum,
                            float *weight, float *factor) {
  const vec none = vec_set(-INFINITY), one = vec_set(1);
  const vec largest = vec_mul(largest_score(scores, count), vec_set(scale)), before = vec_load(reference);
  const vec limit = vec_add(before, vec_set(SLACK));
  if (!vec_any_greater(largest, limit))
    return false;
  const vec now = vec_where_greater(largest, limit, largest, before);
  const vec factors = vec_where_greater(now, before, vec_exp2(vec_sub(before, now)), one);
  vec_store(factor, vec_where_greater(before, none, factors, one)); /* no key yet: nothing to rescale */
  vec_store(reference, now);
  vec_store(sum, vec_mul(vec_load(sum), factors));
  vec_store(weight, vec_mul(vec_load(weight), factors));
  return true;
}

/*
 * The next `keys` keys' probabilities, as store_probabilities() lays them. The rows'
 * weights are the sums of what is stored: o divided by that keeps none of the rounding that a row's largest
 * probabilities share.
 */
INLINE void take_scores(score_job *job, int32_t keys) {
  const int32_t end = job->at + keys;
  vec sums[2] = {job->sums[0], job->sums[1]}, weights = job->weights, largest = job->largest;
  for (int32_t t = job->at; t < end; t += 2) {
    vec p[2];
    UNROLL for (int i = 0; i < 2; i++) {
      const vec x = vec_fma(vec_load(job->scores + (size_t)(t + i) * LANES), job->scales, job->shift);
      largest = vec_max(x, largest);
      p[i] = vec_exp2(x);
      sums[i] = vec_add(sums[i], p[i]);
    }
    weights = vec_add(weights, store_probabilities(job->probabilities, t, p));
  }
  job->largest = largest;
  job->sums[0] = sums[0];
  job->sums[1] = sums[1];
  job->weights = weights;
  job->at = end;
}

INLINE void end_scores(const score_job *job) {
  vec_store(job->sum, vec_add(vec_load(job->sum), vec_add(job->sums[0], job->sums[1])));
  vec_store(job->weight, vec_add(vec_load(job->weight), job->weights));
}

#endif
