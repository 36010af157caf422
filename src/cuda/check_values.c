#include "check.h"
#include "cuda/check_report.h"
#include "cuda/decode.h"
#include "cuda/error.h"

/* The value that the report names, judged by the rule itself, for its sentence. */
static fmla_status judge(const fmla_decode_params *p, const fmlai_cuda_check_report *r) {
  switch (r->rule) {
  case FMLAI_CUDA_RULE_NONE:
    return FMLA_OK;
  case FMLAI_CUDA_RULE_FIRST_QUERY:
    FMLAI_TRY(fmlai_check_first_query(r->value));
    break;
  case FMLAI_CUDA_RULE_QUERIES:
    FMLAI_TRY(fmlai_check_queries(p, r->batch, r->other, r->value));
    break;
  case FMLAI_CUDA_RULE_LAST_QUERY:
    FMLAI_TRY(fmlai_check_last_query(p, r->value));
    break;
  case FMLAI_CUDA_RULE_CACHE_SEQLEN:
    FMLAI_TRY(fmlai_check_cache_seqlen(p, r->batch, r->value));
    break;
  case FMLAI_CUDA_RULE_PAGE:
    FMLAI_TRY(fmlai_check_page(p, r->batch, r->other, r->value));
    break;
  default:
    break;
  }
  return FMLAI_FAIL(FMLA_ERROR_INTERNAL,
                    "the device reports rule %d broken by %d (sequence %d, %d), which it is not", (int)r->rule,
                    (int)r->value, (int)r->batch, (int)r->other);
}

fmla_status fmlai_cuda_check_values(const fmlai_cuda_context *c, const fmla_decode_params *p,
                                    const fmlai_cuda_decode_args *args, void *report, CUstream stream) {
  bool is_capturing;
  FMLAI_TRY(fmlai_cuda_is_capturing(c, stream, &is_capturing));
  if (is_capturing)
    return FMLAI_FAIL(
        FMLA_ERROR_UNSUPPORTED,
        "flags has FMLA_CHECKED, which waits for the stream, but the stream is captured into a graph");
  fmlai_cuda_decode_args copy = *args;
  copy.max_seqlen_q = p->max_seqlen_q; /* the rule's, as the caller gave it */
  fmlai_cuda_check_report found;
  void *parameters[] = {&copy, &report};
  const fmlai_cuda_launch launch = {
      .function = c->functions.check_values, .grid = 1, .block = FMLAI_CUDA_CHECK_THREADS};
  FMLAI_TRY(FMLAI_CUDA_CALL(c->driver, cuMemsetD32Async, report, 0, sizeof found / sizeof(int32_t), stream));
  FMLAI_TRY(fmlai_cuda_launch_kernel(c, &launch, parameters, stream));
  FMLAI_TRY(FMLAI_CUDA_CALL(c->driver, cuMemcpyDtoHAsync, &found, report, sizeof found, stream));
  FMLAI_TRY(FMLAI_CUDA_CALL(c->driver, cuStreamSynchronize, stream));
  return judge(p, &found);
}
