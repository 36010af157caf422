/*
 * run_case.c: decodes a case, compares it, and then asks for its properties.
 *
 * SPDX-License-Identifier: MIT
 */
#include "run_case.h"

#include "compare.h"
#include "device.h"
#include "gpu_rules.h"
#include "number.h"
#include "properties.h"
#include "shape.h"
#include "step.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

verify_outcome verify_fail(const verify_run *run, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(run->message, run->message_bytes, format, arguments);
  va_end(arguments);
  return VERIFY_FAILED;
}

verify_outcome verify_call_failed(const verify_run *run, const char *what, fmla_status status) {
  verify_fail(run, "%s gave %s: %s", what, fmla_status_name(status), fmla_last_error());
  if (status == FMLA_ERROR_OUT_OF_MEMORY)
    return VERIFY_NO_MEMORY;
  return status == FMLA_ERROR_DEVICE_LOST ? VERIFY_LOST : VERIFY_FAILED;
}

/* ---- What cases run on ------------------------------------------------------------------------- */

fmla_status verify_target_open(const fmla_config *config, verify_target *target) {
  *target = (verify_target){0};
  fmla_status status = fmla_open(config, &target->context);
  if (status != FMLA_OK)
    return status;
  fmla_context_info info = {.struct_size = sizeof info};
  status = fmla_get_context_info(target->context, &info);
  target->is_gpu = info.num_sms > 0;
  if (status == FMLA_OK && info.num_threads > 0) {
    fmla_config other = *config;
    other.num_threads = info.num_threads == 1 ? 3 : 1;
    status = fmla_open(&other, &target->other_threads);
  }
  if (status != FMLA_OK)
    verify_target_close(target);
  return status;
}

void verify_target_close(verify_target *target) {
  fmla_close(target->context);
  fmla_close(target->other_threads);
  *target = (verify_target){0};
}

/* ---- Against the oracle ------------------------------------------------------------------------ */

/* The type of the probabilities in the kernel that serves the case. */
static fmla_status find_probability_dtype(const verify_run *run, fmla_dtype *dtype) {
  const char *kernel = NULL;
  fmla_status status = fmla_decode_kernel(run->target->context, &run->step->params, &kernel, NULL);
  for (int32_t i = 0; status == FMLA_OK && i < fmla_kernel_count(); i++) {
    fmla_kernel_info info = {.struct_size = sizeof info};
    status = fmla_get_kernel_info(i, &info);
    if (status == FMLA_OK && strcmp(info.name, kernel) == 0)
      *dtype = (fmla_dtype)info.probability_dtype;
  }
  return status;
}

verify_outcome verify_check_values(const verify_run *run, const fmla_decode_params *result, const char *what) {
  fmla_dtype dtype = FMLA_DTYPE_FP32;
  fmla_status status = find_probability_dtype(run, &dtype);
  if (status != FMLA_OK)
    return verify_call_failed(run, "asking for the kernel", status);
  verify_report report;
  if (verify_decode(result, dtype, &report) != 0)
    return VERIFY_NO_MEMORY;
  return report.failed_rows == 0 ? VERIFY_PASSED : verify_fail(run, "%s: %s", what, report.message);
}

static verify_outcome check_values(const verify_run *run) {
  return verify_check_values(run, &run->step->params, "fmla_decode");
}

/* Whether bytes of an output that belong to no element are as they were. `used` marks those that do. */
static verify_outcome check_unused(const verify_run *run, verify_tensor_id id, const char *name,
                                   const unsigned char *used) {
  const unsigned char *data = run->step->tensors[id].data;
  for (size_t i = 0; i < run->step->tensors[id].bytes; i++)
    if (used[i] == 0 && data[i] != 0xff)
      return verify_fail(run, "byte %zu of %s was written, but belongs to no element", i, name);
  return VERIFY_PASSED;
}

static verify_outcome check_gaps(const verify_run *run) {
  fmla_decode_params p = run->step->params;
  verify_resolve_decode(&p);
  size_t element = verify_dtype_bytes(p.out_dtype);
  unsigned char *out_used = calloc(run->step->tensors[VERIFY_OUT].bytes + 1, 1);
  unsigned char *lse_used = calloc(run->step->tensors[VERIFY_LSE].bytes + 1, 1);
  verify_outcome outcome = out_used != NULL && lse_used != NULL ? VERIFY_PASSED : VERIFY_NO_MEMORY;
  for (int64_t i = 0; outcome == VERIFY_PASSED && i < verify_num_queries(&p); i++) {
    verify_query query = verify_query_at(&p, i);
    for (int32_t head = 0; head < p.num_q_heads; head++) {
      memset(out_used + (size_t)verify_out_offset(&p, &query, head) * element, 1,
             (size_t)p.head_dim_v * element);
      if (p.lse != NULL)
        memset(lse_used + (size_t)verify_lse_offset(&p, &query, head) * sizeof *p.lse, 1, sizeof *p.lse);
    }
  }
  if (outcome == VERIFY_PASSED)
    outcome = check_unused(run, VERIFY_OUT, "out", out_used);
  if (outcome == VERIFY_PASSED)
    outcome = check_unused(run, VERIFY_LSE, "lse", lse_used);
  free(out_used);
  free(lse_used);
  return outcome;
}

verify_case verify_case_for(const verify_target *target, const verify_case *c) {
  return target->is_gpu ? verify_case_for_gpus(c) : *c;
}

/* What comes of the first decode. */
static verify_outcome judge_call(const verify_run *run, fmla_status status) {
  const bool must_be_taken = !run->target->is_gpu || verify_obeys_gpu_rules(&run->step->params);
  if (status == FMLA_ERROR_UNSUPPORTED && fmla_last_error()[0] == '\0')
    return verify_fail(run, "it was refused without a sentence");
  if (status == FMLA_ERROR_UNSUPPORTED)
    return must_be_taken ? VERIFY_NOT_TAKEN : VERIFY_REFUSED;
  if (status != FMLA_OK)
    return verify_call_failed(run, "fmla_decode", status);
  return must_be_taken ? VERIFY_PASSED : verify_fail(run, "it breaks a rule of GPUs, but was not refused");
}

verify_outcome verify_run_case(const verify_target *target, const verify_case *c, char *message, size_t bytes) {
  static verify_property *const properties[] = {
      check_values,
      check_gaps,
      verify_second_run,
      verify_other_threads,
      verify_batch_invariance,
      verify_isolation,
      verify_merged_parts,
      verify_workspace_size,
  };
  enum { COUNT = sizeof properties / sizeof properties[0], OF_ONE_RUN = 2 };
  snprintf(message, bytes, "memory ran out"); /* unless a call says more */
  verify_step step;
  if (verify_step_build(c, &step) != 0)
    return VERIFY_NO_MEMORY;
  verify_run run = {.target = target, .c = c, .step = &step, .message_bytes = bytes};
  run.message = message;
  /* Tensors that are far apart take seconds to copy to a GPU: once must do. */
  const size_t count = target->is_gpu && c->strides == VERIFY_STRIDES_FAR ? OF_ONE_RUN : COUNT;
  const fmla_status status = verify_device_decode(target->context, &step, VERIFY_WORKSPACE_NAN);
  verify_outcome outcome = judge_call(&run, status);
  for (size_t i = 0; outcome == VERIFY_PASSED && i < count; i++)
    outcome = properties[i](&run);
  verify_step_free(&step);
  return outcome;
}
