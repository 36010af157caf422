/*
 * gpu_steps.h: what the properties of GPUs share: steps that are there, on the host and on the device, and
 * found right.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef VERIFY_GPU_STEPS_H
#define VERIFY_GPU_STEPS_H

#include "gpu_properties.h"
#include "placed.h"
#include "random.h"
#include "step.h"

typedef verify_outcome verify_gpu_property(verify_gpu *gpu);

verify_gpu_property verify_gpu_far_pool;       /* gpu_pool.c */
verify_gpu_property verify_gpu_wild_values;    /* gpu_values.c */
verify_gpu_property verify_gpu_wild_queries;   /* gpu_values.c */
verify_gpu_property verify_gpu_checked_mode;   /* gpu_values.c */
verify_gpu_property verify_gpu_replayed_graph; /* gpu_graph.c */
verify_gpu_property verify_gpu_two_contexts;   /* gpu_streams.c */
verify_gpu_property verify_gpu_two_threads;    /* gpu_streams.c */
verify_gpu_property verify_gpu_held_sms;       /* gpu_hold.c */
verify_gpu_property verify_gpu_few_sms;        /* gpu_properties.c */

/* Keeps the sentence; VERIFY_FAILED. */
__attribute__((format(printf, 2, 3))) verify_outcome verify_gpu_fail(verify_gpu *gpu, const char *format, ...);

/* How often something is done that a full check does so many times. */
static inline int verify_gpu_times(const verify_gpu *gpu, int times) {
  return (times + gpu->divisor - 1) / gpu->divisor;
}

/* The outcome of a call that did not return FMLA_OK. */
verify_outcome verify_gpu_call_failed(verify_gpu *gpu, const char *what, fmla_status status);

/* Return from a property when a call of the library, of the probe, or another step fails. */
#define TRY_CALL(gpu, what, call)                                                                              \
  do {                                                                                                         \
    const fmla_status try_status = (call);                                                                     \
    if (try_status != FMLA_OK)                                                                                 \
      return verify_gpu_call_failed((gpu), (what), try_status);                                                \
  } while (0)
#define TRY_PROBE(gpu, call)                                                                                   \
  do {                                                                                                         \
    if (!(call))                                                                                               \
      return verify_gpu_fail((gpu), "%s", (gpu)->probe.sentence);                                              \
  } while (0)
#define TRY(call)                                                                                              \
  do {                                                                                                         \
    const verify_outcome try_outcome = (call);                                                                 \
    if (try_outcome != VERIFY_PASSED)                                                                          \
      return try_outcome;                                                                                      \
  } while (0)

/* A step in both memories. */
typedef struct verify_gpu_step {
  verify_step host;
  verify_placed placed;
  verify_step again; /* the same with outputs of their own, for what other runs give */
} verify_gpu_step;

/* DeepSeek-V3's geometry, which every kernel should take; to be altered. */
verify_case verify_gpu_case(uint64_t seed);

/* Builds and places the step, and decodes it: the host's outputs are what it gives, compared with the oracle.
   VERIFY_NOT_TAKEN if the kernel does not take it. verify_gpu_step_free in every case, on a cleared struct. */
verify_outcome verify_gpu_step_make(verify_gpu *gpu, const verify_case *c, verify_gpu_step *step);
/* The same for a host's step that is built. */
verify_outcome verify_gpu_step_place(verify_gpu *gpu, verify_gpu_step *step);
void verify_gpu_step_free(verify_gpu_step *step);

/* Multiprocessors that the step's kernel needs: 1, or the 2 of a cluster. */
int32_t verify_gpu_least_sms(const verify_gpu *gpu, const fmla_decode_params *params);

/* Holds the host's outputs against the oracle. */
verify_outcome verify_gpu_check_values(verify_gpu *gpu, const verify_step *host, const char *what);

/* Reads what a decode of `placed` on the stream gave, and demands the bits that the step had alone, and intact
   margins. */
verify_outcome verify_gpu_check_bits(verify_gpu *gpu, verify_gpu_step *step, const verify_placed *placed,
                                     void *stream, const char *what);

#endif
