#include "bench_gpu.h"

#include "bench_step.h"
#include "cache_size.h"
#include "common.h"
#include "device_step.h"
#include "graph.h"

#include <math.h>

enum { MAX_SETS = 16, LEAST_CALLS = 4, SAMPLES = 5 };
static const double sample_seconds = 0.03;
static const size_t least_between = (size_t)256 << 20, memory_for_others = (size_t)512 << 20;

/* Sets of tensors, used in turn: a cache is read again only after all the others. */
typedef struct rotation {
  fmla_context *context;
  probe_gpu *gpu;
  device_step sets[MAX_SETS];
  int num_sets;
  int num_placed; /* whether all of it or a part */
  probe_graph graph;
  probe_timer timer;
} rotation;

static int fail_probe(const probe_gpu *gpu) {
  fail(EXIT_ENVIRONMENT, "%s", gpu->sentence);
  return EXIT_ENVIRONMENT; /* a constant, for analyzers to follow */
}

/* ---- Memory ------------------------------------------------------------------------------------- */

static double gib(size_t bytes) {
  return (double)bytes / (1 << 30);
}

/* As many sets as keep a cache's uses far apart, if the device's memory holds as many. */
static int count_sets(rotation *r, const fmla_decode_params *host) {
  const tensor_bytes t = count_tensor_bytes(host);
  size_t workspace, free_bytes;
  const int code = fail_status(fmla_decode_workspace(r->context, host, &workspace));
  if (code != EXIT_OK)
    return code;
  if (!probe_free_bytes(r->gpu, &free_bytes))
    return fail_probe(r->gpu);
  const size_t l2 = CACHES_OUTGROWN * (size_t)r->gpu->l2_bytes;
  const size_t between = l2 > least_between ? l2 : least_between;
  const size_t usable = free_bytes > memory_for_others ? free_bytes - memory_for_others : 0;
  const size_t bytes = t.q + t.kv_cache + t.block_table + t.cache_seqlens + t.out + t.lse + workspace;
  const size_t wanted = (between + t.kv_cache - 1) / t.kv_cache, most = wanted < MAX_SETS ? wanted : MAX_SETS;
  r->num_sets = (int)(usable / bytes < most ? usable / bytes : most);
  if (r->num_sets > 0)
    return EXIT_OK;
  fail(EXIT_ENVIRONMENT,
       "%d sequences of %d heads with up to %lld tokens take %.1f GiB of the device's memory, and %.1f GiB can "
       "be had",
       (int)host->batch_size, (int)host->num_q_heads, (long long)host->max_pages_per_seq * host->page_size,
       gib(bytes), gib(usable));
  return EXIT_ENVIRONMENT;
}

/* Every set has values of its own. */
static bool fill_set(rotation *r, int index, const tensor_bytes *bytes) {
  const fmla_decode_params *p = &r->sets[index].params;
  const bool is_fp16 = p->q_dtype == FMLA_DTYPE_FP16;
  const uint64_t seed = 2 * (uint64_t)index + 1;
  return probe_fill(r->gpu, (void *)p->q, bytes->q / 2, seed, is_fp16, NULL) &&
         probe_fill(r->gpu, (void *)p->kv_cache, bytes->kv_cache / 2, seed + 1, is_fp16, NULL);
}

static int place_sets(rotation *r, const fmla_decode_params *host) {
  const tensor_bytes bytes = count_tensor_bytes(host);
  int code = count_sets(r, host);
  for (int i = 0; code == EXIT_OK && i < r->num_sets; i++) {
    r->num_placed++;
    code = device_step_place(r->context, host, &r->sets[i]);
    if (code == EXIT_OK && !fill_set(r, i, &bytes))
      code = fail_probe(r->gpu);
  }
  return code == EXIT_OK ? fail_status(fmla_stream_synchronize(r->context, NULL)) : code;
}

/* ---- Time --------------------------------------------------------------------------------------- */

static int decode_each(rotation *r, int calls, void *stream) {
  int code = EXIT_OK;
  for (int i = 0; i < calls && code == EXIT_OK; i++) {
    const device_step *set = &r->sets[i % r->num_sets];
    code = fail_status(fmla_decode(r->context, &set->params, set->workspace, set->workspace_bytes, stream));
  }
  return code;
}

/* A run beforehand shows what fails outside of a capture, where it is easier to say. */
static int capture(rotation *r, int calls, void *stream) {
  int code = decode_each(r, r->num_sets, stream);
  if (code == EXIT_OK)
    code = fail_status(fmla_stream_synchronize(r->context, stream));
  if (code != EXIT_OK)
    return code;
  if (!probe_capture_begin(r->gpu, stream))
    return fail_probe(r->gpu);
  code = decode_each(r, calls, stream);
  if (!probe_capture_end(r->gpu, stream, &r->graph) && code == EXIT_OK)
    code = fail_probe(r->gpu);
  return code;
}

/* The time of so many replays. */
static bool time_replays(rotation *r, int replays, void *stream, double *seconds) {
  if (!probe_timer_start(r->gpu, &r->timer, stream))
    return false;
  for (int i = 0; i < replays; i++)
    if (!probe_replay(r->gpu, &r->graph, stream))
      return false;
  return probe_timer_stop(r->gpu, &r->timer, stream, seconds);
}

static bool time_calls(rotation *r, int calls, void *stream, timing *result) {
  enum { MAX_REPLAYS = 100000 };
  double once, seconds[SAMPLES];
  if (!probe_timer_create(r->gpu, &r->timer) || !time_replays(r, 1, stream, &once) ||
      !time_replays(r, 1, stream, &once)) /* the first one warms up */
    return false;
  const double needed = once > 0 ? ceil(sample_seconds / once) : MAX_REPLAYS;
  const int replays = needed < MAX_REPLAYS ? (int)needed : MAX_REPLAYS;
  for (int i = 0; i < SAMPLES; i++) {
    if (!time_replays(r, replays, stream, &seconds[i]))
      return false;
    seconds[i] /= (double)replays * calls;
  }
  *result = timing_of(seconds, SAMPLES);
  result->runs = SAMPLES * replays * calls;
  return true;
}

static int measure(rotation *r, const fmla_decode_params *host, bench_row *row) {
  int code = place_sets(r, host);
  if (code != EXIT_OK)
    return code;
  const int rounds = r->num_sets < LEAST_CALLS ? LEAST_CALLS / r->num_sets : 1;
  const int calls = r->num_sets * rounds;
  void *stream = r->sets[0].stream;
  code = capture(r, calls, stream);
  if (code == EXIT_OK && !time_calls(r, calls, stream, &row->time))
    code = fail_probe(r->gpu);
  if (code == EXIT_OK)
    code = fail_status(fmla_decode_kernel(r->context, host, &row->kernel, NULL));
  return code;
}

int measure_row_on_gpu(fmla_context *context, probe_gpu *gpu, const bench_shape *shape, bench_row *row) {
  verify_random random = {1};
  bench_step host;
  rotation r = {.context = context, .gpu = gpu};
  int code = bench_step_build(shape, &random, &host);
  if (code == EXIT_OK)
    code = measure(&r, &host.params, row);
  if (code == EXIT_OK)
    row->cost = count_cost(&host.params);
  probe_graph_free(gpu, &r.graph);
  probe_timer_free(gpu, &r.timer);
  for (int i = 0; i < r.num_placed; i++)
    device_step_free(&r.sets[i]);
  bench_step_free(&host);
  return code;
}
