/* The checked mode: looks at every query offset, length and page number as check.c does on the CPU. */
#include "../check_report.h"
#include "args.h"
#include "turn.cuh"

typedef fmlai_cuda_check_report check_report;

#define NOWHERE 0xffffffffffffffffull

/* The lowest of all threads' indices; every thread calls it. */
static __device__ unsigned long long lowest_of_all(unsigned long long mine) {
  __shared__ unsigned long long lowest;
  __syncthreads();
  if (threadIdx.x == 0)
    lowest = NOWHERE;
  __syncthreads();
  if (mine != NOWHERE)
    atomicMin(&lowest, mine);
  __syncthreads();
  return lowest;
}

/* The three checks return whether they wrote a report; the same in all threads. */

static __device__ bool check_queries(const fmlai_cuda_decode_args *a, check_report *report) {
  const int32_t *cu = a->cu_seqlens_q;
  unsigned long long mine = NOWHERE;
  for (int32_t i = (int32_t)threadIdx.x; i < a->batch_size && mine == NOWHERE; i += FMLAI_CUDA_CHECK_THREADS)
    if (cu[i + 1] < cu[i] || (int64_t)cu[i + 1] - cu[i] > a->max_seqlen_q)
      mine = (unsigned long long)i;
  const unsigned long long bad = lowest_of_all(mine);
  check_report found = {FMLAI_CUDA_RULE_NONE, 0, 0, 0};
  if (cu[0] != 0)
    found = check_report{FMLAI_CUDA_RULE_FIRST_QUERY, 0, 0, cu[0]};
  else if (bad != NOWHERE)
    found = check_report{FMLAI_CUDA_RULE_QUERIES, (int32_t)bad, cu[bad], cu[bad + 1]};
  else if (cu[a->batch_size] > a->total_q)
    found = check_report{FMLAI_CUDA_RULE_LAST_QUERY, a->batch_size, 0, cu[a->batch_size]};
  if (threadIdx.x == 0)
    *report = found;
  return found.rule != FMLAI_CUDA_RULE_NONE;
}

static __device__ bool check_lengths(const fmlai_cuda_decode_args *a, check_report *report) {
  unsigned long long mine = NOWHERE;
  for (int32_t i = (int32_t)threadIdx.x; i < a->batch_size && mine == NOWHERE; i += FMLAI_CUDA_CHECK_THREADS)
    if (a->cache_seqlens[i] < 0 || a->cache_seqlens[i] > a->max_seqlen_k)
      mine = (unsigned long long)i;
  const unsigned long long bad = lowest_of_all(mine);
  if (bad != NOWHERE && threadIdx.x == 0)
    *report = check_report{FMLAI_CUDA_RULE_CACHE_SEQLEN, (int32_t)bad, 0, a->cache_seqlens[bad]};
  return bad != NOWHERE;
}

static __device__ void check_pages(const fmlai_cuda_decode_args *a, check_report *report) {
  for (int32_t batch = 0; batch < a->batch_size; batch++) {
    const int32_t *row = a->block_table + batch * a->block_table_stride;
    const int64_t num_used = ((int64_t)a->cache_seqlens[batch] + a->page_size - 1) / a->page_size;
    unsigned long long mine = NOWHERE;
    for (int64_t i = threadIdx.x; i < num_used && mine == NOWHERE; i += FMLAI_CUDA_CHECK_THREADS)
      if (row[i] < 0 || row[i] >= a->num_pages)
        mine = (unsigned long long)i;
    const unsigned long long bad = lowest_of_all(mine);
    if (bad == NOWHERE)
      continue;
    if (threadIdx.x == 0)
      *report = check_report{FMLAI_CUDA_RULE_PAGE, batch, (int32_t)bad, row[bad]};
    return;
  }
}

/* By one CTA; the report is zeros before. */
extern "C" __global__ void __launch_bounds__(FMLAI_CUDA_CHECK_THREADS)
    fmlai_check_values(const __grid_constant__ fmlai_cuda_decode_args args, check_report *report) {
  wait_for_turn();
  let_next_begin();
  if (args.cu_seqlens_q && check_queries(&args, report))
    return;
  if (!check_lengths(&args, report))
    check_pages(&args, report);
}
