/*
 * What fmlai_check_values(fmlai_cuda_decode_args args, fmlai_cuda_check_report *report) tells the host: the
 * first value that breaks a rule, in the order of the rules and within a rule in the order of its indices.
 * Lengths and page numbers are looked at as check.c does; FMLAI_CUDA_RULE_PAGE only in sequences that pass the
 * rules before it. One CTA of FMLAI_CUDA_CHECK_THREADS; the host sets the report to zeros before. Plain C, the
 * same in CUDA C.
 */
#ifndef FMLAI_CUDA_CHECK_REPORT_H
#define FMLAI_CUDA_CHECK_REPORT_H

#include <stdint.h>

enum { FMLAI_CUDA_CHECK_THREADS = 1024 };

typedef enum fmlai_cuda_rule {
  FMLAI_CUDA_RULE_NONE = 0,         /* every value is right */
  FMLAI_CUDA_RULE_FIRST_QUERY = 1,  /* cu_seqlens_q[0]: `value` */
  FMLAI_CUDA_RULE_QUERIES = 2,      /* cu_seqlens_q[batch + 1]: `value`, and cu_seqlens_q[batch]: `other` */
  FMLAI_CUDA_RULE_LAST_QUERY = 3,   /* cu_seqlens_q[batch_size]: `value` */
  FMLAI_CUDA_RULE_CACHE_SEQLEN = 4, /* cache_seqlens[batch]: `value` */
  FMLAI_CUDA_RULE_PAGE = 5          /* block_table[batch][other]: `value` */
} fmlai_cuda_rule;

typedef struct fmlai_cuda_check_report {
  int32_t rule; /* fmlai_cuda_rule */
  int32_t batch;
  int32_t other;
  int32_t value;
} fmlai_cuda_check_report;

#endif
