/*
 * gpu_properties.c: the table of properties, and steps to try them on.
 *
 * SPDX-License-Identifier: MIT
 */
#include "gpu_steps.h"

#include "gpu_rules.h"
#include "properties.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct property {
  const char *name;
  verify_gpu_property *run;
} properties[] = {
    {"a pool that 32 bits do not count", verify_gpu_far_pool},
    {"lengths and pages of any value", verify_gpu_wild_values},
    {"query offsets of any value", verify_gpu_wild_queries},
    {"the checked mode", verify_gpu_checked_mode},
    {"a graph replayed with other values", verify_gpu_replayed_graph},
    {"two contexts and two streams", verify_gpu_two_contexts},
    {"one context and two threads", verify_gpu_two_threads},
    {"all SMs held but one", verify_gpu_held_sms},
    {"few SMs allowed", verify_gpu_few_sms},
};

int verify_num_gpu_properties(void) {
  return (int)(sizeof properties / sizeof *properties);
}

const char *verify_gpu_property_name(int index) {
  return properties[index].name;
}

verify_outcome verify_run_gpu_property(verify_gpu *gpu, int index) {
  snprintf(gpu->message, sizeof gpu->message, "memory ran out"); /* unless a call says more */
  return properties[index].run(gpu);
}

/* ---- The GPU ------------------------------------------------------------------------------------ */

verify_outcome verify_gpu_fail(verify_gpu *gpu, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(gpu->message, sizeof gpu->message, format, arguments);
  va_end(arguments);
  return VERIFY_FAILED;
}

verify_outcome verify_gpu_call_failed(verify_gpu *gpu, const char *what, fmla_status status) {
  verify_gpu_fail(gpu, "%s gave %s: %s", what, fmla_status_name(status), fmla_last_error());
  if (status == FMLA_ERROR_OUT_OF_MEMORY)
    return VERIFY_NO_MEMORY;
  return status == FMLA_ERROR_DEVICE_LOST ? VERIFY_LOST : VERIFY_FAILED;
}

bool verify_gpu_open(const fmla_config *config, verify_gpu *gpu) {
  enum { BEYOND_32_BITS = 32 };
  *gpu = (verify_gpu){.config = *config, .far_elements = UINT64_C(1) << BEYOND_32_BITS, .divisor = 1};
  fmla_context_info info = {.struct_size = sizeof info};
  fmla_status status = verify_target_open(config, &gpu->target);
  if (status == FMLA_OK)
    status = fmla_get_context_info(gpu->target.context, &info);
  if (status != FMLA_OK)
    verify_gpu_fail(gpu, "%s", fmla_last_error());
  else if (!probe_open(&gpu->probe,
                       (int32_t)strtol(info.device + strcspn(info.device, "0123456789"), NULL, 10)))
    verify_gpu_fail(gpu, "%s", gpu->probe.sentence);
  else
    return true;
  return false;
}

void verify_gpu_be_quick(verify_gpu *gpu) {
  enum { QUICK_ELEMENTS = 1 << 24, QUICK_DIVISOR = 16 };
  gpu->far_elements = QUICK_ELEMENTS;
  gpu->divisor = QUICK_DIVISOR;
}

void verify_gpu_close(verify_gpu *gpu) {
  probe_close(&gpu->probe);
  verify_target_close(&gpu->target);
}

/* ---- Steps -------------------------------------------------------------------------------------- */

verify_case verify_gpu_case(uint64_t seed) {
  return (verify_case){.seed = seed,
                       .batch_size = 4,
                       .num_q_heads = 16,
                       .num_kv_heads = 1,
                       .head_dim_k = 576,
                       .head_dim_v = 512,
                       .max_seqlen_q = 1,
                       .page_size = 64,
                       .longest = 700,
                       .stride_multiple = 1,
                       .lengths = VERIFY_LENGTHS_EDGES,
                       .dtype = FMLA_DTYPE_BF16,
                       .out_dtype = FMLA_DTYPE_BF16,
                       .softmax_scale = 0.0416666667f};
}

verify_outcome verify_gpu_check_values(verify_gpu *gpu, const verify_step *host, const char *what) {
  const verify_run run = {
      .target = &gpu->target, .step = host, .message = gpu->message, .message_bytes = sizeof gpu->message};
  return verify_check_values(&run, &host->params, what);
}

verify_outcome verify_gpu_step_make(verify_gpu *gpu, const verify_case *c, verify_gpu_step *step) {
  verify_case shorter = *c;
  shorter.longest /= gpu->divisor;
  return verify_step_build(&shorter, &step->host) == 0 ? verify_gpu_step_place(gpu, step) : VERIFY_NO_MEMORY;
}

verify_outcome verify_gpu_step_place(verify_gpu *gpu, verify_gpu_step *step) {
  if (verify_step_new_outputs(&step->host, &step->again) != 0)
    return VERIFY_NO_MEMORY;
  const fmla_status status = verify_place_all(gpu->target.context, &step->host, &step->placed);
  if (status == FMLA_ERROR_UNSUPPORTED && verify_obeys_gpu_rules(&step->host.params)) {
    verify_gpu_fail(gpu, "%s", fmla_last_error());
    return VERIFY_NOT_TAKEN;
  }
  TRY_CALL(gpu, "placing a step", status);
  TRY_CALL(gpu, "fmla_decode", verify_placed_decode(&step->placed, NULL));
  TRY_CALL(gpu, "reading the result", verify_placed_read(&step->placed, &step->host, NULL));
  return verify_gpu_check_values(gpu, &step->host, "fmla_decode");
}

void verify_gpu_step_free(verify_gpu_step *step) {
  verify_step_drop_outputs(&step->again);
  verify_step_free(&step->host);
  if (step->placed.context != NULL)
    verify_unplace(&step->placed);
}

verify_outcome verify_gpu_check_bits(verify_gpu *gpu, verify_gpu_step *step, const verify_placed *placed,
                                     void *stream, const char *what) {
  bool intact;
  TRY_CALL(gpu, what, verify_placed_read(placed, &step->again, stream));
  TRY_CALL(gpu, what, verify_placed_look(placed, &intact));
  if (!intact)
    return verify_gpu_fail(gpu, "%s wrote beside its outputs or its workspace", what);
  return verify_step_same_outputs(&step->again, &step->host) ? VERIFY_PASSED
                                                             : verify_gpu_fail(gpu, "%s gave other bits", what);
}

/* ---- max_sms ------------------------------------------------------------------------------------ */

int32_t verify_gpu_least_sms(const verify_gpu *gpu, const fmla_decode_params *params) {
  fmla_decode_params one = *params;
  size_t bytes;
  one.max_sms = 1;
  return fmla_decode_workspace(gpu->target.context, &one, &bytes) == FMLA_ERROR_UNSUPPORTED ? 2 : 1;
}

static verify_outcome decode_on_few(verify_gpu *gpu, verify_gpu_step *step, int32_t max_sms) {
  char what[64];
  snprintf(what, sizeof what, "fmla_decode with max_sms %d", (int)max_sms);
  verify_step few = step->again;
  few.params.max_sms = max_sms;
  verify_placed placed;
  fmla_status status = verify_place_all(gpu->target.context, &few, &placed);
  if (status == FMLA_OK)
    status = verify_placed_decode(&placed, NULL);
  if (status == FMLA_OK)
    status = verify_placed_read(&placed, &few, NULL);
  verify_unplace(&placed);
  TRY_CALL(gpu, what, status);
  return verify_gpu_check_values(gpu, &few, what);
}

/* On few SMs shares are long, and the batch is cut in every way: the line, an item each, two parts of a tile
   each, several whole tiles each (src/cuda/kernels/schedule.cuh). */
verify_outcome verify_gpu_few_sms(verify_gpu *gpu) {
  static const struct {
    int32_t batch_size, num_q_heads;
    verify_lengths lengths;
    uint32_t flags;
  } batches[] = {
      {4, 16, VERIFY_LENGTHS_EDGES, 0},  {4, 16, VERIFY_LENGTHS_EDGES, FMLA_BATCH_INVARIANT},
      {2, 16, VERIFY_LENGTHS_FULL, 0},   {8, 16, VERIFY_LENGTHS_FULL, 0},
      {8, 16, VERIFY_LENGTHS_RANDOM, 0}, {3, 128, VERIFY_LENGTHS_FULL, 0},
  };
  static const int32_t counts[] = {1, 2, 3, 4, 7};
  verify_outcome outcome = VERIFY_PASSED;
  for (size_t b = 0; b < sizeof batches / sizeof *batches && outcome == VERIFY_PASSED; b++) {
    verify_case c = verify_gpu_case(7);
    c.batch_size = batches[b].batch_size;
    c.num_q_heads = batches[b].num_q_heads;
    c.lengths = batches[b].lengths;
    c.flags = batches[b].flags;
    c.longest = 3000;
    c.data = VERIFY_DATA_NEEDLE;
    verify_gpu_step step = {0};
    outcome = verify_gpu_step_make(gpu, &c, &step);
    for (size_t i = 0; i < sizeof counts / sizeof *counts && outcome == VERIFY_PASSED; i++)
      if (counts[i] >= verify_gpu_least_sms(gpu, &step.placed.params))
        outcome = decode_on_few(gpu, &step, counts[i]);
    verify_gpu_step_free(&step);
  }
  return outcome;
}
