/*
 * oracle.c: softmax(q . K^T * scale + mask) . V in double, in two passes over the keys.
 *
 * SPDX-License-Identifier: MIT
 */
#include "oracle.h"

#include "number.h"
#include "shape.h"

#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <unistd.h>

enum {
  HEADS_PER_TASK = 16, /* so many heads share one reading of the keys */
  LANES = 8,           /* rows are padded with zeros to a multiple of this */
  MAX_THREADS = 16
};

static void *allocate(int64_t count, size_t size) {
  return calloc(count > 0 ? (size_t)count : 1, size);
}

static int truth_alloc(verify_truth *truth, int64_t num_queries, int32_t num_heads, int32_t head_dim_v) {
  *truth =
      (verify_truth){.num_rows = num_queries * num_heads, .num_heads = num_heads, .head_dim_v = head_dim_v};
  truth->out = allocate(truth->num_rows * head_dim_v, sizeof *truth->out);
  truth->lse = allocate(truth->num_rows, sizeof *truth->lse);
  truth->score_size = allocate(truth->num_rows, sizeof *truth->score_size);
  truth->sink_share = allocate(truth->num_rows, sizeof *truth->sink_share);
  if (truth->out != NULL && truth->lse != NULL && truth->score_size != NULL && truth->sink_share != NULL)
    return 0;
  verify_truth_free(truth);
  return -1;
}

void verify_truth_free(verify_truth *truth) {
  free(truth->out);
  free(truth->lse);
  free(truth->score_size);
  free(truth->sink_share);
  *truth = (verify_truth){0};
}

static double empty_lse(uint32_t flags) {
  return (flags & FMLA_EMPTY_LSE_POS_INF) != 0 ? HUGE_VAL : -HUGE_VAL;
}

static double *out_row(const verify_truth *truth, int64_t row) {
  return truth->out + row * truth->head_dim_v;
}

/* A sink is one more score, which takes its share of the softmax and has no value. */
static void apply_sink(verify_truth *truth, int64_t row, const float *sink) {
  if (sink == NULL)
    return;
  double above_lse = (double)sink[row % truth->num_heads] - truth->lse[row];
  double factor = 1 / (1 + exp(above_lse));
  for (int32_t j = 0; j < truth->head_dim_v; j++)
    out_row(truth, row)[j] *= factor;
  truth->sink_share[row] = 1 / (1 + exp(-above_lse));
}

/* ---- Decode ------------------------------------------------------------------------------------ */

typedef struct decode_job {
  const fmla_decode_params *params; /* resolved */
  verify_truth *truth;
  int32_t heads_per_kv_head;
  int32_t tasks_per_kv_head;
  int64_t num_tasks; /* a task: one query token and some heads that share a KV head */
  atomic_int_fast64_t next_task;
  atomic_bool out_of_memory;
} decode_job;

static int64_t padded(int32_t dim) {
  return (dim + LANES - 1) / LANES * (int64_t)LANES;
}

/* sum a_j b_j, and sum |a_j b_j|. Several sums, so that the compiler may use vectors. */
static double dot(const double *a, const double *b, int64_t count, double *magnitude) {
  double sums[LANES] = {0}, magnitudes[LANES] = {0};
  for (int64_t j = 0; j < count; j += LANES)
    for (int i = 0; i < LANES; i++) {
      double product = a[j + i] * b[j + i];
      sums[i] += product;
      magnitudes[i] += fabs(product);
    }
  double sum = 0;
  *magnitude = 0;
  for (int i = 0; i < LANES; i++) {
    sum += sums[i];
    *magnitude += magnitudes[i];
  }
  return sum;
}

static void load_query(const fmla_decode_params *p, const verify_query *query, int32_t head, double *row) {
  int32_t q_dim = verify_q_dim(p);
  verify_load_many(p->q_dtype, p->q, verify_q_offset(p, query, head), q_dim, row);
  if (p->q_rope != NULL)
    verify_load_many(p->q_dtype, p->q_rope, verify_q_rope_offset(p, query, head), p->head_dim_rope,
                     row + q_dim);
}

static void load_key(const fmla_decode_params *p, const verify_query *query, int64_t key, int32_t kv_head,
                     int32_t dim, double *row) {
  int64_t offset = verify_kv_offset(p, query->sequence, key, kv_head);
  verify_load_many(verify_kv_dtype(p), p->kv_cache, offset, dim, row);
}

/* Scores to probabilities, in place; returns the log-sum-exp. */
static double softmax(double *scores, int64_t count) {
  double max = scores[0], sum = 0;
  for (int64_t t = 1; t < count; t++)
    max = fmax(max, scores[t]);
  for (int64_t t = 0; t < count; t++)
    sum += exp(scores[t] - max);
  double lse = max + log(sum);
  for (int64_t t = 0; t < count; t++)
    scores[t] = exp(scores[t] - max) / sum;
  return lse;
}

/* Rows `row` .. row + num_heads - 1 of one query token that sees keys; their heads share a KV head. */
static int decode_rows(const decode_job *job, const verify_query *query, int64_t row, int32_t num_heads,
                       int32_t kv_head) {
  const fmla_decode_params *p = job->params;
  verify_truth *truth = job->truth;
  int32_t first_head = (int32_t)(row % truth->num_heads);
  int64_t num_keys = query->num_keys, width = padded(p->head_dim_k);
  double scale = (double)p->softmax_scale;
  double *key = allocate(width, sizeof *key);
  double *queries = allocate(num_heads * width, sizeof *queries);
  double *scores = allocate(num_heads * num_keys, sizeof *scores);
  int status = key != NULL && queries != NULL && scores != NULL ? 0 : -1;
  if (status == 0) {
    for (int32_t h = 0; h < num_heads; h++)
      load_query(p, query, first_head + h, queries + h * width);
    for (int64_t t = 0; t < num_keys; t++) {
      load_key(p, query, t, kv_head, p->head_dim_k, key);
      for (int32_t h = 0; h < num_heads; h++) {
        double magnitude;
        scores[h * num_keys + t] = scale * dot(queries + h * width, key, width, &magnitude);
        truth->score_size[row + h] = fmax(truth->score_size[row + h], scale * magnitude);
      }
    }
    for (int32_t h = 0; h < num_heads; h++)
      truth->lse[row + h] = softmax(scores + h * num_keys, num_keys);
    for (int64_t t = 0; t < num_keys; t++) {
      load_key(p, query, t, kv_head, p->head_dim_v, key);
      for (int32_t h = 0; h < num_heads; h++) {
        double probability = scores[h * num_keys + t], *out = out_row(truth, row + h);
        for (int32_t j = 0; j < p->head_dim_v; j++)
          out[j] += probability * key[j];
      }
    }
    for (int32_t h = 0; h < num_heads; h++)
      apply_sink(truth, row + h, p->sink);
  }
  free(key);
  free(queries);
  free(scores);
  return status;
}

static int decode_task(const decode_job *job, int64_t task) {
  const fmla_decode_params *p = job->params;
  int64_t tasks_per_query = (int64_t)p->num_kv_heads * job->tasks_per_kv_head;
  int64_t index = task / tasks_per_query;
  int32_t kv_head = (int32_t)(task % tasks_per_query / job->tasks_per_kv_head);
  int32_t begin = (int32_t)(task % job->tasks_per_kv_head) * HEADS_PER_TASK; /* within the KV head's heads */
  int32_t left = job->heads_per_kv_head - begin;
  int32_t num_heads = left < HEADS_PER_TASK ? left : HEADS_PER_TASK;

  verify_query query = verify_query_at(p, index);
  int64_t row = index * p->num_q_heads + kv_head * job->heads_per_kv_head + begin;
  if (query.num_keys > 0)
    return decode_rows(job, &query, row, num_heads, kv_head);
  for (int32_t h = 0; h < num_heads; h++) /* out stays 0 */
    job->truth->lse[row + h] = empty_lse(p->flags);
  return 0;
}

static void *decode_tasks(void *argument) {
  decode_job *job = argument;
  for (;;) {
    int64_t task = atomic_fetch_add(&job->next_task, 1);
    if (task >= job->num_tasks)
      return NULL;
    if (decode_task(job, task) != 0)
      atomic_store(&job->out_of_memory, true);
  }
}

static atomic_int most_threads = MAX_THREADS;

void verify_oracle_limit_threads(int threads) {
  atomic_store(&most_threads, threads < MAX_THREADS ? threads : MAX_THREADS);
}

/* The caller works too, so threads that cannot be created are only missed. */
static void run_on_all_cores(decode_job *job) {
  pthread_t threads[MAX_THREADS];
  long cores = sysconf(_SC_NPROCESSORS_ONLN);
  int count = 0;
  const int most = atomic_load(&most_threads);
  while (count + 1 < most && count + 1 < cores && count + 1 < job->num_tasks &&
         pthread_create(&threads[count], NULL, decode_tasks, job) == 0)
    count++;
  decode_tasks(job);
  for (int i = 0; i < count; i++)
    pthread_join(threads[i], NULL);
}

int verify_oracle_decode(const fmla_decode_params *params, verify_truth *truth) {
  fmla_decode_params p = *params;
  verify_resolve_decode(&p);
  int64_t num_queries = verify_num_queries(&p);
  if (truth_alloc(truth, num_queries, p.num_q_heads, p.head_dim_v) != 0)
    return -1;
  decode_job job = {.params = &p, .truth = truth, .heads_per_kv_head = p.num_q_heads / p.num_kv_heads};
  job.tasks_per_kv_head = (job.heads_per_kv_head + HEADS_PER_TASK - 1) / HEADS_PER_TASK;
  job.num_tasks = num_queries * p.num_kv_heads * job.tasks_per_kv_head;
  atomic_init(&job.next_task, 0);
  atomic_init(&job.out_of_memory, false);
  run_on_all_cores(&job);
  if (!atomic_load(&job.out_of_memory))
    return 0;
  verify_truth_free(truth);
  return -1;
}

/* ---- Merge ------------------------------------------------------------------------------------- */

static void merge_row(const fmla_merge_params *p, verify_truth *truth, int64_t row) {
  int64_t head = row % p->num_q_heads, token = row / p->num_q_heads % p->seqlen_q;
  int64_t batch = row / p->num_q_heads / p->seqlen_q;
  int64_t lse_offset =
      batch * p->lse_parts_stride_batch + token * p->lse_parts_stride_token + head * p->lse_parts_stride_head;
  int64_t out_offset =
      batch * p->out_parts_stride_batch + token * p->out_parts_stride_token + head * p->out_parts_stride_head;
  double empty = empty_lse(p->flags), max = -HUGE_VAL, sum = 0, *out = out_row(truth, row);
  for (int32_t part = 0; part < p->num_parts; part++) {
    double lse = (double)p->lse_parts[part * p->lse_parts_stride_part + lse_offset];
    if (lse != empty && lse != -HUGE_VAL) {
      max = fmax(max, lse);
      truth->score_size[row] = fmax(truth->score_size[row], fabs(lse));
    }
  }
  truth->lse[row] = empty;
  if (max == -HUGE_VAL)
    return;
  for (int32_t part = 0; part < p->num_parts; part++) {
    double lse = (double)p->lse_parts[part * p->lse_parts_stride_part + lse_offset];
    if (lse == empty || lse == -HUGE_VAL)
      continue;
    int64_t at = part * p->out_parts_stride_part + out_offset;
    double weight = exp(lse - max);
    sum += weight;
    for (int32_t j = 0; j < p->head_dim_v; j++)
      out[j] += weight * verify_load(p->part_dtype, p->out_parts, at + j);
  }
  for (int32_t j = 0; j < p->head_dim_v; j++)
    out[j] /= sum;
  truth->lse[row] = max + log(sum);
  apply_sink(truth, row, p->sink);
}

int verify_oracle_merge(const fmla_merge_params *params, verify_truth *truth) {
  fmla_merge_params p = *params;
  verify_resolve_merge(&p);
  if (truth_alloc(truth, (int64_t)p.batch_size * p.seqlen_q, p.num_q_heads, p.head_dim_v) != 0)
    return -1;
  for (int64_t row = 0; row < truth->num_rows; row++)
    merge_row(&p, truth, row);
  return 0;
}
