#include "cpu/shares.h"

/* Of one core, roughly: wrong guesses cost some speed, never a result. */
static const double read_bytes_per_second = 15e9, partial_bytes_per_second = 10e9, wake_seconds = 15e-6;

/* Partial results stay small beside the caches that they come from. */
enum { MAX_PARTIAL_ROWS = 1 << 16 };

/* Finer shares than this even nothing out. */
enum { ITEMS_PER_PROCESSOR = 16 };

fmlai_cpu_costs fmlai_cpu_costs_of(const fmlai_cpu_kernel *kernel, const fmla_decode_params *p,
                                   int32_t tile_rows) {
  const double operations = 2.0 * tile_rows * (p->head_dim_k + p->head_dim_v);
  const double computing = operations / (1e9 * kernel->gflops);
  const double reading = 2.0 * p->head_dim_k / read_bytes_per_second;
  return (fmlai_cpu_costs){.key = computing > reading ? computing : reading,
                           .split = 2.0 * sizeof(float) * tile_rows * p->head_dim_v / partial_bytes_per_second};
}

int32_t fmlai_cpu_max_target_items(int32_t num_processors, int32_t tile_rows) {
  const int32_t fitting = MAX_PARTIAL_ROWS / 2 / tile_rows, wanted = num_processors * ITEMS_PER_PROCESSOR;
  return fitting < 1 ? 1 : fitting < wanted ? fitting : wanted;
}

int64_t fmlai_cpu_max_partial_rows(int32_t num_processors, int32_t tile_rows) {
  const int64_t wanted = 2 * (int64_t)num_processors * ITEMS_PER_PROCESSOR * tile_rows;
  return wanted < MAX_PARTIAL_ROWS ? wanted : MAX_PARTIAL_ROWS;
}

/* When all processors have done the plan's items, each drawing the next when it is free. */
static double finish_time(const fmlai_plan *plan, const fmlai_cpu_costs *costs, int32_t num_processors) {
  double total = 0, longest = 0;
  bool even = true;
  for (int32_t i = 0; i < plan->shape.batch_size; i++) {
    const int64_t items = plan->item_begin[i + 1] - plan->item_begin[i];
    const int64_t keys = plan->cache_seqlens[i];
    const bool split = plan->partial_begin[i + 1] > plan->partial_begin[i];
    const double item = (double)(split ? plan->split_tokens : keys) * costs->key + (split ? costs->split : 0);
    const double all = (double)(plan->tile_begin[i + 1] - plan->tile_begin[i]) * (double)keys * costs->key +
                       (split ? (double)items * costs->split : 0);
    even = even && (longest == 0 || item == longest);
    longest = items > 0 && item > longest ? item : longest;
    total += all;
  }
  const double bound = total / num_processors + longest * (num_processors - 1) / num_processors;
  const int64_t rounds = (fmlai_plan_num_items(plan) + num_processors - 1) / num_processors;
  return even && (double)rounds * longest < bound ? (double)rounds * longest : bound;
}

int32_t fmlai_cpu_target_items(const fmlai_plan_shape *shape, const fmla_decode_params *p,
                               const fmlai_cpu_costs *costs, int32_t num_processors, int32_t max_target,
                               void *memory) {
  int32_t best = 1;
  double best_time = 0;
  /* As few splits as can be, then an item for each processor, two, four ... */
  for (int32_t target = 1; target <= max_target; target = target > 1           ? 2 * target
                                                          : num_processors > 1 ? num_processors
                                                                               : 2) {
    fmlai_plan_shape candidate = *shape;
    fmlai_plan plan;
    candidate.target_items = target;
    fmlai_plan_make(&plan, &candidate, p->cache_seqlens, p->cu_seqlens_q, memory);
    const double time = finish_time(&plan, costs, num_processors);
    if (target == 1 || time < best_time) {
      best = target;
      best_time = time;
    }
  }
  return best;
}

int32_t fmlai_cpu_useful_threads(const fmlai_plan *plan, const fmlai_cpu_costs *costs) {
  double keys = 0;
  for (int32_t i = 0; i < plan->shape.batch_size; i++)
    keys += (double)(plan->tile_begin[i + 1] - plan->tile_begin[i]) * plan->cache_seqlens[i];
  const double threads = 1 + keys * costs->key / wake_seconds;
  return threads < FMLA_MAX_THREADS ? (int32_t)threads : FMLA_MAX_THREADS;
}
