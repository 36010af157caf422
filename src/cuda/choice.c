#include "cuda/choice.h"

#include "cuda/check_gpu.h"
#include "cuda/kernels/args.h"
#include "cuda/tensor_map.h"
#include "status.h"

enum { MIN_STAGES = 2, SHARED_GRANULARITY = 128 };

static int32_t min32(int32_t a, int32_t b) {
  return a < b ? a : b;
}

static bool is_capped(const fmlai_cuda_context *c, const fmla_decode_params *p) {
  return p->max_sms > 0 && p->max_sms < c->device->num_sms;
}

bool fmlai_cuda_has_variant(const fmlai_cuda_context *c, int32_t variant) {
  return c->functions.decode[variant][0].function != NULL;
}

static int32_t num_sms(const fmlai_cuda_context *c, const fmla_decode_params *p) {
  return is_capped(c, p) ? p->max_sms : c->device->num_sms;
}

/* A GPU deals CTAs out to all its SMs before any gets a second: so a grid keeps to max_sms only if it has no
 * more CTAs. */
static int32_t wanted_ctas_per_sm(const fmlai_cuda_context *c, const fmla_decode_params *p, int32_t variant) {
  return is_capped(c, p) ? 1 : fmlai_cuda_variants[variant].ctas_per_sm;
}

int32_t fmlai_cuda_max_ctas(const fmlai_cuda_context *c, const fmla_decode_params *p, int32_t variant) {
  return num_sms(c, p) * wanted_ctas_per_sm(c, p, variant);
}

int32_t fmlai_cuda_merge_ctas(const fmlai_cuda_context *c, const fmla_decode_params *p) {
  return num_sms(c, p) * (is_capped(c, p) ? 1 : FMLAI_CUDA_MERGE_SPLITS_CTAS_PER_SM);
}

/* Dynamic shared memory of each of `ctas` on an SM. */
static int32_t shared_of_each(const fmlai_cuda_device *d, int32_t ctas) {
  const int32_t share = d->shared_per_sm / ctas - d->shared_reserved;
  return min32(share / SHARED_GRANULARITY * SHARED_GRANULARITY, d->shared_per_cta);
}

static int64_t rows_of_kv_head(const fmla_decode_params *p) {
  return (int64_t)fmlai_cuda_longest_q(p) * (p->num_q_heads / p->num_kv_heads);
}

static bool takes_hopper(const fmla_decode_params *p) {
  return p->head_dim_k == 576 && p->head_dim_v == 512 && fmlai_cuda_can_map(p);
}

/* Two pairs of CTAs go over the same keys side by side, so that these leave the memory once for both, where
 * that leaves no more CTAs without a row tile than pairs do. */
static int32_t tiles_together(const fmla_decode_params *p, const fmlai_cuda_variant *v, int32_t num_ctas) {
  const int64_t tiles = (rows_of_kv_head(p) + v->rows - 1) / v->rows;
  const bool fill_two = p->cu_seqlens_q == NULL && (tiles + 1) / 2 % 2 == 0;
  return v->tiles_together == 2 && fill_two && num_ctas >= 4 ? 4 : v->tiles_together;
}

/* As many CTAs on an SM as wanted, if each gets stages enough, and enough for a share; then as many stages as
 * fit. */
static bool fit(const fmlai_cuda_context *c, const fmla_decode_params *p, int32_t index,
                fmlai_cuda_choice *choice) {
  const fmlai_cuda_variant *v = &fmlai_cuda_variants[index];
  if (p->head_dim_v > v->max_head_dim_v || (v->is_hopper && !takes_hopper(p)) ||
      num_sms(c, p) < v->tiles_together)
    return false;
  const int32_t resident = c->functions.decode[index][fmlai_cuda_type(p)].ctas_per_sm;
  for (int32_t ctas = min32(resident, wanted_ctas_per_sm(c, p, index)); ctas >= 1; ctas--) {
    const int32_t stages = fmlai_cuda_stages_in(v, p->head_dim_k, shared_of_each(c->device, ctas));
    if (stages >= MIN_STAGES) {
      choice->variant = index;
      choice->num_stages = stages;
      choice->shared_bytes = fmlai_cuda_shared_bytes(v, p->head_dim_k, stages);
      const int32_t num_ctas = num_sms(c, p) * ctas;
      choice->tiles_together = tiles_together(p, v, num_ctas);
      choice->num_ctas = num_ctas - num_ctas % choice->tiles_together;
      return true;
    }
  }
  return false;
}

/*
 * Query rows that share a KV head's keys. Bits depend on the variant; so where a sequence's may not depend on
 * the others, max_seqlen_q, which is that of the longest, has no say in it.
 */
static int64_t rows_of(const fmla_decode_params *p) {
  const bool alone = (p->flags & FMLA_BATCH_INVARIANT) != 0 && p->cu_seqlens_q != NULL;
  return alone ? p->num_q_heads / p->num_kv_heads : rows_of_kv_head(p);
}

/* In the CTAs of one share. */
static bool holds_all_rows(const fmla_decode_params *p, int32_t index) {
  const fmlai_cuda_variant *v = &fmlai_cuda_variants[index];
  return (int64_t)v->tiles_together * v->rows >= rows_of(p);
}

/* The first from `index` on that holds all rows, else `last`. */
static int32_t first_holding(const fmla_decode_params *p, int32_t index, int32_t last) {
  while (index < last && !holds_all_rows(p, index))
    index++;
  return index;
}

int32_t fmlai_cuda_variant_of_rows(const fmla_decode_params *p) {
  return first_holding(p, 0, FMLAI_CUDA_NUM_PORTABLE - 1);
}

int32_t fmlai_cuda_hopper_variant_of_rows(const fmla_decode_params *p) {
  return first_holding(p, FMLAI_CUDA_HOPPER_ROWS16, FMLAI_CUDA_HOPPER_ROWS128);
}

static fmla_status choose_only(const fmlai_cuda_context *c, const fmla_decode_params *p,
                               fmlai_cuda_choice *choice) {
  const fmlai_cuda_variant *v = &fmlai_cuda_variants[c->only];
  choice->reason = "the context was opened with it";
  if (fit(c, p, c->only, choice))
    return FMLA_OK;
  if (p->head_dim_v > v->max_head_dim_v)
    return FMLAI_FAIL(FMLA_ERROR_UNSUPPORTED,
                      "kernel \"%s\", which the context was opened with, takes head_dim_v up to %d only",
                      v->name, (int)v->max_head_dim_v);
  if (v->is_hopper && !takes_hopper(p))
    return FMLAI_FAIL(
        FMLA_ERROR_UNSUPPORTED,
        "kernel \"%s\", which the context was opened with, takes %s, with positive strides below 2^39", v->name,
        v->takes);
  if (num_sms(c, p) < v->tiles_together)
    return FMLAI_FAIL(
        FMLA_ERROR_UNSUPPORTED,
        "kernel \"%s\", which the context was opened with, needs %d multiprocessors, and max_sms is %d",
        v->name, (int)v->tiles_together, (int)p->max_sms);
  return FMLAI_FAIL(
      FMLA_ERROR_UNSUPPORTED,
      "kernel \"%s\", which the context was opened with, needs %d bytes of shared memory for head_dim_k "
      "%d, and this device has %d",
      v->name, (int)fmlai_cuda_shared_bytes(v, p->head_dim_k, MIN_STAGES), (int)p->head_dim_k,
      (int)shared_of_each(c->device, 1));
}

fmla_status fmlai_cuda_choose(const fmlai_cuda_context *c, const fmla_decode_params *p,
                              fmlai_cuda_choice *choice) {
  if (c->only >= 0)
    return choose_only(c, p, choice);
  const int32_t hopper = fmlai_cuda_hopper_variant_of_rows(p);
  /* Where no pair of SMs may be used, one goes over the keys again and again. Smaller tiles are not better than
     the portable kernel's. */
  for (int32_t index = hopper; index >= min32(hopper, FMLAI_CUDA_HOPPER_ROWS64); index--)
    if (fmlai_cuda_has_variant(c, index) && fit(c, p, index, choice)) {
      choice->reason =
          holds_all_rows(p, index)
              ? "the device is a Hopper GPU, and its tile is the smallest "
                "that holds all query rows of a KV head"
              : "the device is a Hopper GPU, and its tile is the largest for so many multiprocessors";
      return FMLA_OK;
    }
  for (int32_t index = fmlai_cuda_variant_of_rows(p); index >= 0; index--)
    if (fit(c, p, index, choice)) {
      choice->reason = holds_all_rows(p, index)
                           ? "its tile is the smallest that holds all query rows of a KV head"
                           : "its tile is the largest that this device and head dims allow";
      return FMLA_OK;
    }
  return FMLAI_FAIL(
      FMLA_ERROR_UNSUPPORTED,
      "head_dim_k is %d, for which kernels need %d bytes of shared memory, and this device has %d",
      (int)p->head_dim_k, (int)fmlai_cuda_shared_bytes(&fmlai_cuda_variants[0], p->head_dim_k, MIN_STAGES),
      (int)shared_of_each(c->device, 1));
}
