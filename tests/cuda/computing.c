/*
 * computing.c: what the library hands to its kernels, as calls of the CPU backend.
 *
 * SPDX-License-Identifier: MIT
 */
#include "computing.h"

#include "kernels/args.h"
#include "support.h"

#include <pthread.h>
#include <stdio.h>

static fmla_context *cpu;
static computing_defect defect;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int num_calls; /* of decode; under the lock */
static int32_t first_length = -1;
static uint32_t *held_slots; /* of the kernel that holds SMs */

/* ---- Decode ------------------------------------------------------------------------------------------- */

static fmla_decode_params params_of(const fmlai_cuda_decode_args *a, bool is_fp16) {
  fmla_decode_params p = FMLA_DECODE_PARAMS_INIT;
  p.batch_size = a->batch_size;
  p.num_q_heads = a->num_kv_heads * a->group_heads;
  p.num_kv_heads = a->num_kv_heads;
  p.head_dim_k = a->head_dim_k;
  p.head_dim_v = a->head_dim_v;
  p.head_dim_rope = a->head_dim_rope;
  p.max_seqlen_q = a->max_seqlen_q;
  p.page_size = a->page_size;
  p.total_q = a->cu_seqlens_q != NULL ? a->total_q : 0;
  p.num_pages = a->num_pages;
  p.max_pages_per_seq = (a->max_seqlen_k + a->page_size - 1) / a->page_size;
  p.softmax_scale = a->softmax_scale;
  p.flags = a->flags & ~FMLA_CHECKED;
  p.q_dtype = is_fp16 ? FMLA_DTYPE_FP16 : FMLA_DTYPE_BF16;
  p.kv_format = is_fp16 ? FMLA_KV_FP16 : FMLA_KV_BF16;
  p.out_dtype = a->out_dtype;
  p.q = a->q;
  p.q_rope = a->q_rope;
  p.kv_cache = a->kv_cache;
  p.block_table = a->block_table;
  p.cache_seqlens = a->cache_seqlens;
  p.cu_seqlens_q = a->cu_seqlens_q;
  p.sink = a->sink;
  p.out = a->out;
  p.lse = a->lse;
  p.q_stride_batch = a->q_stride_batch;
  p.q_stride_token = a->q_stride_token;
  p.q_stride_head = a->q_stride_head;
  p.q_rope_stride_batch = a->q_rope_stride_batch;
  p.q_rope_stride_token = a->q_rope_stride_token;
  p.q_rope_stride_head = a->q_rope_stride_head;
  p.kv_stride_page = a->kv_stride_page;
  p.kv_stride_token = a->kv_stride_token;
  p.kv_stride_head = a->kv_stride_head;
  p.block_table_stride = a->block_table_stride;
  p.out_stride_batch = a->out_stride_batch;
  p.out_stride_token = a->out_stride_token;
  p.out_stride_head = a->out_stride_head;
  p.lse_stride_batch = a->lse_stride_batch;
  p.lse_stride_token = a->lse_stride_token;
  p.lse_stride_head = a->lse_stride_head;
  return p;
}

static fmla_status decode(const fmla_decode_params *p) {
  size_t bytes;
  fmla_status status = fmla_decode_workspace(cpu, p, &bytes);
  void *workspace = status == FMLA_OK ? malloc(bytes + 1) : NULL;
  if (workspace != NULL)
    status = fmla_decode(cpu, p, workspace, bytes, NULL);
  free(workspace);
  return status;
}

static int32_t clamp(int32_t value, int32_t most) {
  return value < 0 ? 0 : value > most ? most : value;
}

/* With lengths and pages as a GPU takes them: the cache gets a page of zeros at its end. */
typedef struct legal_copy {
  int32_t *lengths, *table;
  char *cache;
} legal_copy;

static void make_legal(fmla_decode_params *p, int32_t max_seqlen_k, bool is_replay, legal_copy *copy) {
  const size_t entries = (size_t)p->batch_size * (size_t)p->max_pages_per_seq;
  const size_t page_bytes = (size_t)p->kv_stride_page * sizeof(uint16_t);
  const size_t cache_bytes = (size_t)p->num_pages * page_bytes;
  const int32_t most = max_seqlen_k - (defect == COMPUTING_CLAMPS_TOO_LITTLE);
  bool any_bad = false;
  copy->lengths = calloc((size_t)p->batch_size + 1, sizeof(int32_t));
  copy->table = calloc(entries + 1, sizeof(int32_t));
  for (int32_t i = 0; i < p->batch_size; i++) {
    copy->lengths[i] = clamp(p->cache_seqlens[i], most);
    if (defect == COMPUTING_KEEPS_LENGTHS && is_replay && i == 0) {
      first_length = first_length < 0 ? copy->lengths[0] : first_length;
      copy->lengths[0] = clamp(first_length, most);
    }
    for (int32_t k = 0; k < p->max_pages_per_seq; k++) {
      int32_t page = p->block_table[i * p->block_table_stride + k];
      if (defect == COMPUTING_CUTS_PAGES && p->num_pages > 64)
        page = page % (int32_t)(p->num_pages / 2);
      const bool is_bad = page < 0 || page >= p->num_pages;
      any_bad = any_bad || (is_bad && k * p->page_size < copy->lengths[i]);
      copy->table[i * p->max_pages_per_seq + k] = !is_bad                               ? page
                                                  : defect == COMPUTING_READS_BAD_PAGES ? 0
                                                                                        : (int32_t)p->num_pages;
    }
  }
  p->cache_seqlens = copy->lengths;
  p->block_table = copy->table;
  p->block_table_stride = p->max_pages_per_seq;
  if (!any_bad)
    return;
  copy->cache = calloc(cache_bytes + page_bytes, 1);
  memcpy(copy->cache, p->kv_cache, cache_bytes);
  p->kv_cache = copy->cache;
  p->num_pages++;
}

static bool are_offsets_legal(const fmlai_cuda_decode_args *a) {
  bool are = a->cu_seqlens_q == NULL || a->cu_seqlens_q[0] == 0;
  for (int32_t i = 0; a->cu_seqlens_q != NULL && i < a->batch_size && are; i++) {
    const int32_t begin = a->cu_seqlens_q[i], end = a->cu_seqlens_q[i + 1];
    are = end >= begin && end <= a->total_q && end - begin <= a->max_seqlen_q;
  }
  return are;
}

static int count_call(void) {
  pthread_mutex_lock(&lock);
  const int number = ++num_calls;
  pthread_mutex_unlock(&lock);
  return number;
}

static void run_decode(const fmlai_cuda_decode_args *a, bool is_fp16, bool is_replay) {
  fmla_decode_params p = params_of(a, is_fp16);
  legal_copy copy = {0};
  if (defect == COMPUTING_WRITES_BESIDE)
    ((char *)a->out)[-1] = 0;
  const int number = count_call();
  if (!are_offsets_legal(a) || (defect == COMPUTING_FORGETS_A_CALL && number % 10 == 0))
    return; /* where nothing is promised, or kept */
  make_legal(&p, a->max_seqlen_k, is_replay, &copy);
  if ((defect == COMPUTING_SPLITS_WRONGLY && a->num_ctas < 8) || (defect == COMPUTING_TIRES && number > 10))
    copy.lengths[0] /= 2;
  if (decode(&p) != FMLA_OK)
    fprintf(stderr, "the CPU refuses what the library hands to its kernel: %s\n", fmla_last_error());
  for (int i = 0; defect == COMPUTING_WAITS_FOR_SMS && held_slots != NULL && i < 8; i++)
    held_slots[i] = PROBE_TIMED_OUT;
  free(copy.lengths);
  free(copy.table);
  free(copy.cache);
}

/* ---- Merge, the checked mode, holding SMs -----------------------------------------------------------------
 */

static void run_merge(const fmlai_cuda_merge_args *a) {
  fmla_merge_params p = FMLA_MERGE_PARAMS_INIT;
  p.num_parts = a->num_parts;
  p.batch_size = a->batch_size;
  p.seqlen_q = a->seqlen_q;
  p.num_q_heads = a->num_q_heads;
  p.head_dim_v = a->head_dim_v;
  p.flags = a->flags;
  p.part_dtype = a->part_dtype;
  p.out_dtype = a->out_dtype;
  p.out_parts = a->out_parts;
  p.lse_parts = a->lse_parts;
  p.sink = a->sink;
  p.out = a->out;
  p.lse = a->lse;
  p.out_parts_stride_part = a->out_parts_stride_part;
  p.out_parts_stride_batch = a->out_parts_stride_batch;
  p.out_parts_stride_token = a->out_parts_stride_token;
  p.out_parts_stride_head = a->out_parts_stride_head;
  p.lse_parts_stride_part = a->lse_parts_stride_part;
  p.lse_parts_stride_batch = a->lse_parts_stride_batch;
  p.lse_parts_stride_token = a->lse_parts_stride_token;
  p.lse_parts_stride_head = a->lse_parts_stride_head;
  p.out_stride_batch = a->out_stride_batch;
  p.out_stride_token = a->out_stride_token;
  p.out_stride_head = a->out_stride_head;
  p.lse_stride_batch = a->lse_stride_batch;
  p.lse_stride_token = a->lse_stride_token;
  p.lse_stride_head = a->lse_stride_head;
  if (fmla_merge(cpu, &p, NULL) != FMLA_OK)
    fprintf(stderr, "the CPU refuses what the library hands to its kernel: %s\n", fmla_last_error());
}

static fmlai_cuda_check_report check(const fmlai_cuda_decode_args *a) {
  const int32_t *cu = a->cu_seqlens_q;
  if (cu != NULL && cu[0] != 0)
    return (fmlai_cuda_check_report){FMLAI_CUDA_RULE_FIRST_QUERY, 0, 0, cu[0]};
  for (int32_t i = 0; cu != NULL && i < a->batch_size; i++)
    if (cu[i + 1] < cu[i] || cu[i + 1] - cu[i] > a->max_seqlen_q)
      return (fmlai_cuda_check_report){FMLAI_CUDA_RULE_QUERIES, i, cu[i], cu[i + 1]};
  for (int32_t i = 0; i < a->batch_size; i++)
    if (a->cache_seqlens[i] < 0 || a->cache_seqlens[i] > a->max_seqlen_k)
      return (fmlai_cuda_check_report){FMLAI_CUDA_RULE_CACHE_SEQLEN, i, 0, a->cache_seqlens[i]};
  for (int32_t i = 0; i < a->batch_size; i++)
    for (int32_t k = 0; k * a->page_size < a->cache_seqlens[i]; k++) {
      const int32_t page = a->block_table[i * a->block_table_stride + k];
      if (page < 0 || page >= a->num_pages)
        return (fmlai_cuda_check_report){FMLAI_CUDA_RULE_PAGE, i, k, page};
    }
  return (fmlai_cuda_check_report){0};
}

static void run_hold(unsigned num_ctas, uint32_t *slots) {
  held_slots = slots;
  for (unsigned i = 0; i < num_ctas; i++)
    slots[i] = PROBE_HOLDS + i;
}

static void run(const fake_launch *l, void **parameters) {
  if (strncmp(l->name, "fmlai_decode", strlen("fmlai_decode")) == 0)
    run_decode(&l->args.decode, strstr(l->name, "fp16") != NULL, parameters == NULL);
  else if (strcmp(l->name, "fmlai_merge_parts") == 0)
    run_merge(&l->args.merge);
  else if (strcmp(l->name, "fmlai_check_values") == 0 && defect != COMPUTING_CHECKS_NOTHING)
    **(fmlai_cuda_check_report **)parameters[1] = check(&l->args.decode);
  else if (strcmp(l->name, "probe_hold") == 0)
    run_hold(l->grid, *(uint32_t **)parameters[1]);
}

void compute_on_cpu(computing_defect wanted) {
  if (cpu == NULL)
    cpu = open_device("cpu", NULL);
  defect = wanted;
  num_calls = 0;
  first_length = -1;
  held_slots = NULL;
  fake.run = run;
}

void stop_computing(void) {
  fake.run = NULL;
  fmla_close(cpu);
  cpu = NULL;
}
