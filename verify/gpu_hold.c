/*
 * gpu_hold.c: a decode ends while another kernel holds every SM but one, or but a cluster of two for the
 * kernels that need it, and gives the same bits: no CTA waits for one that may not be running.
 *
 * SPDX-License-Identifier: MIT
 */
#include "gpu_steps.h"

#include "kernels/args.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>

enum { MAX_SMS = 1024, SLOTS_AT = 32 /* apart from what is polled */ };
static const uint64_t timeout_ns = 2000000000; /* the kernel lets go by itself then */
static const int patience_ms = 4000;

typedef struct holder {
  probe_kernel kernels[2]; /* that leave one SM, and two of a cluster */
  int32_t left, num_ctas;
  void *stream, *decode_stream;
  CUevent decoded;
  void *flags; /* of the host, which the device sees: whether to let go; a slot for each CTA */
} holder;

static _Atomic uint32_t *release_flag(const holder *h) {
  return h->flags;
}

static uint32_t slot(const holder *h, int32_t cta) {
  const _Atomic uint32_t *flags = h->flags;
  return atomic_load(&flags[SLOTS_AT + cta]);
}

static void pause_for_a_while(void) {
  const struct timespec pause = {.tv_nsec = 100000};
  nanosleep(&pause, NULL);
}

static int64_t milliseconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* ---- Holding ------------------------------------------------------------------------------------ */

static verify_outcome find_kernel(verify_gpu *gpu, const char *name, probe_kernel *kernel) {
  probe_gpu *probe = &gpu->probe;
  int ctas_per_sm;
  TRY_PROBE(gpu, probe_find_kernel(probe, PROBE_IMAGE_hold, name, probe->shared_per_cta, kernel));
  TRY_PROBE(gpu, PROBE_CALL(probe, cuOccupancyMaxActiveBlocksPerMultiprocessor, &ctas_per_sm, kernel->function,
                            PROBE_HOLD_THREADS, (size_t)probe->shared_per_cta));
  if (ctas_per_sm != 1)
    return verify_gpu_fail(gpu, "%d CTAs of the holding kernel fit an SM, but one should fill it", ctas_per_sm);
  return VERIFY_PASSED;
}

static verify_outcome prepare(verify_gpu *gpu, holder *h) {
  probe_gpu *probe = &gpu->probe;
  const int32_t num_sms = probe->device->num_sms;
  if (num_sms < 4 || num_sms > MAX_SMS)
    return verify_gpu_fail(gpu, "of %d SMs all but one cannot be held", (int)num_sms);
  TRY(find_kernel(gpu, "probe_hold", &h->kernels[0]));
  TRY(find_kernel(gpu, "probe_hold_pairs", &h->kernels[1]));
  TRY_PROBE(gpu, PROBE_CALL(probe, cuMemHostAlloc, &h->flags, (SLOTS_AT + MAX_SMS) * sizeof(uint32_t),
                            CU_MEMHOSTALLOC_PORTABLE | CU_MEMHOSTALLOC_DEVICEMAP));
  TRY_PROBE(gpu, PROBE_CALL(probe, cuEventCreate, &h->decoded, 0));
  TRY_CALL(gpu, "fmla_stream_create", fmla_stream_create(gpu->target.context, &h->stream));
  TRY_CALL(gpu, "fmla_stream_create", fmla_stream_create(gpu->target.context, &h->decode_stream));
  return VERIFY_PASSED;
}

/* Whoever holds an SM is let go before. */
static void clean_up(verify_gpu *gpu, holder *h) {
  if (h->stream != NULL)
    fmla_stream_destroy(gpu->target.context, h->stream);
  if (h->decode_stream != NULL)
    fmla_stream_destroy(gpu->target.context, h->decode_stream);
  if (h->decoded != NULL)
    gpu->probe.driver->cuEventDestroy(h->decoded);
  if (h->flags != NULL)
    gpu->probe.driver->cuMemFreeHost(h->flags);
}

/* Every CTA has come to hold an SM of its own. */
static verify_outcome check_held(verify_gpu *gpu, const holder *h) {
  bool is_held[MAX_SMS] = {false};
  const int64_t deadline = milliseconds() + patience_ms;
  for (int32_t i = 0; i < h->num_ctas; i++) {
    while (slot(h, i) == 0 && milliseconds() < deadline)
      pause_for_a_while();
    const uint32_t sm = slot(h, i) - PROBE_HOLDS;
    if (sm >= MAX_SMS || is_held[sm])
      return verify_gpu_fail(gpu, "CTA %d of the holding kernel does not hold an SM of its own", (int)i);
    is_held[sm] = true;
  }
  return VERIFY_PASSED;
}

static verify_outcome hold(verify_gpu *gpu, holder *h) {
  _Atomic uint32_t *flags = h->flags;
  void *release = flags, *slots = flags + SLOTS_AT;
  uint64_t timeout = timeout_ns;
  void *parameters[] = {&release, &slots, &timeout};
  for (int i = 0; i < SLOTS_AT + MAX_SMS; i++)
    atomic_store(&flags[i], 0);
  TRY_PROBE(gpu, probe_launch(&gpu->probe, &h->kernels[h->left - 1], h->num_ctas, PROBE_HOLD_THREADS,
                              gpu->probe.shared_per_cta, parameters, h->stream));
  return check_held(gpu, h);
}

static verify_outcome let_go(verify_gpu *gpu, holder *h) {
  atomic_store(release_flag(h), 1);
  TRY_CALL(gpu, "waiting for the holding kernel", fmla_stream_synchronize(gpu->target.context, h->stream));
  for (int32_t i = 0; i < h->num_ctas; i++)
    if (slot(h, i) == PROBE_TIMED_OUT)
      return verify_gpu_fail(gpu, "the decode did not end within 2 s while all SMs but %d were held",
                             (int)h->left);
  return VERIFY_PASSED;
}

/* ---- Decoding meanwhile ------------------------------------------------------------------------- */

static verify_outcome wait_for_decode(verify_gpu *gpu, const holder *h) {
  const int64_t deadline = milliseconds() + patience_ms;
  CUresult result;
  while ((result = gpu->probe.driver->cuEventQuery(h->decoded)) == CUDA_ERROR_NOT_READY &&
         milliseconds() < deadline)
    pause_for_a_while();
  if (result == CUDA_ERROR_NOT_READY)
    return verify_gpu_fail(gpu, "the decode did not end while all SMs but %d were held", (int)h->left);
  TRY_PROBE(gpu, probe_succeeded(&gpu->probe, "cuEventQuery", result));
  return VERIFY_PASSED;
}

static verify_outcome decode_meanwhile(verify_gpu *gpu, holder *h, const verify_gpu_step *step) {
  TRY(hold(gpu, h));
  TRY_CALL(gpu, "fmla_decode", verify_placed_decode(&step->placed, h->decode_stream));
  TRY_PROBE(gpu, PROBE_CALL(&gpu->probe, cuEventRecord, h->decoded, h->decode_stream));
  return wait_for_decode(gpu, h);
}

/* Nothing is allocated or freed between holding and letting go: the driver might wait for the device. */
static verify_outcome try_held(verify_gpu *gpu, const verify_case *c, holder *h, verify_gpu_step *step) {
  TRY(verify_gpu_step_make(gpu, c, step));
  TRY_CALL(gpu, "fmla_stream_synchronize", fmla_stream_synchronize(gpu->target.context, NULL));
  h->left = verify_gpu_least_sms(gpu, &step->placed.params);
  h->num_ctas = (gpu->probe.device->num_sms - h->left) / h->left * h->left;
  const verify_outcome decoded = decode_meanwhile(gpu, h, step), ended = let_go(gpu, h);
  TRY(decoded);
  TRY(ended);
  return verify_gpu_check_bits(gpu, step, &step->placed, h->decode_stream, "decoding on the SMs left");
}

static verify_outcome try_shapes(verify_gpu *gpu, holder *h) {
  static const struct {
    int32_t batch_size, num_q_heads, longest;
    verify_lengths lengths;
    uint32_t flags;
  } shapes[] = {
      {1, 16, 8192, VERIFY_LENGTHS_FULL, 0},
      {1, 16, 8192, VERIFY_LENGTHS_FULL, FMLA_BATCH_INVARIANT},
      {1, 128, 3000, VERIFY_LENGTHS_FULL, 0},
      {3, 2, 5000, VERIFY_LENGTHS_ONE_HUGE, 0},
      {3, 64, 5000, VERIFY_LENGTHS_ONE_HUGE, FMLA_BATCH_INVARIANT},
      {200, 4, 130, VERIFY_LENGTHS_RANDOM, 0},
      {40, 16, 1100, VERIFY_LENGTHS_EDGES, FMLA_BATCH_INVARIANT},
  };
  TRY(prepare(gpu, h));
  for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
    verify_case c = verify_gpu_case(i);
    c.batch_size = shapes[i].batch_size;
    c.num_q_heads = shapes[i].num_q_heads;
    c.longest = shapes[i].longest;
    c.lengths = shapes[i].lengths;
    c.flags = shapes[i].flags;
    verify_gpu_step step = {0};
    const verify_outcome outcome = try_held(gpu, &c, h, &step);
    verify_gpu_step_free(&step);
    TRY(outcome);
  }
  return VERIFY_PASSED;
}

verify_outcome verify_gpu_held_sms(verify_gpu *gpu) {
  if (gpu->is_serial) {
    verify_gpu_fail(gpu, "kernels do not run beside each other");
    return VERIFY_NOT_TAKEN;
  }
  holder h = {0};
  const verify_outcome outcome = try_shapes(gpu, &h);
  clean_up(gpu, &h);
  return outcome;
}
