/* The GPUs' table of functions. */
#include "backend.h"
#include "check.h"
#include "cuda/check_gpu.h"
#include "cuda/decode.h"
#include "cuda/error.h"

#include <stdio.h>

static const fmlai_cuda_context *of(const fmla_context *context) {
  return (const fmlai_cuda_context *)context;
}

/* ---- Enumeration ----------------------------------------------------------------------------------- */

static void device_info(int32_t index, fmla_device_info *info) {
  const fmlai_cuda_device *d = fmlai_cuda_device_at(index);
  snprintf(info->name, sizeof info->name, "cuda:%d", (int)d->ordinal);
  snprintf(info->description, sizeof info->description, "%s", d->description);
  snprintf(info->features, sizeof info->features, "sm_%d shared_%dKiB", (int)d->capability,
           (int)d->shared_per_cta / 1024);
  info->num_units = d->num_sms;
  info->memory_bytes = d->memory_bytes;
}

static int32_t kernel_count(void) {
  return fmlai_cuda_images.num_images > 0 ? FMLAI_CUDA_NUM_VARIANTS : 0;
}

static void kernel_info(int32_t index, fmla_kernel_info *info) {
  info->name = fmlai_cuda_variants[index].name;
  info->needs =
      fmlai_cuda_variants[index].is_hopper ? "a GPU of compute capability 9.0" : fmlai_cuda_device_needs();
  info->takes = fmlai_cuda_variants[index].takes;
  info->available = false;
  for (int32_t i = 0; i < fmlai_cuda_num_devices(); i++)
    info->available |= !fmlai_cuda_variants[index].is_hopper || fmlai_cuda_device_at(i)->capability == 90;
  /* The input's type; BF16 has the wider bound. */
  info->probability_dtype = FMLA_DTYPE_BF16;
}

/* ---- Decode and merge ------------------------------------------------------------------------------ */

typedef struct step {
  fmlai_cuda_choice choice;
  fmlai_cuda_layout layout;
  size_t workspace_bytes;
} step;

static fmla_status prepare(const fmla_context *context, const fmla_decode_params *params, step *s) {
  FMLAI_TRY(fmlai_cuda_check_extents(params));
  FMLAI_TRY(fmlai_cuda_choose(of(context), params, &s->choice));
  return fmlai_cuda_lay_out(of(context), params, &s->choice, &s->layout, &s->workspace_bytes);
}

static fmlai_choice choice_of(const step *s) {
  return (fmlai_choice){.kernel = fmlai_cuda_variants[s->choice.variant].name, .reason = s->choice.reason};
}

static fmla_status choose(const fmla_context *context, const fmla_decode_params *params, fmlai_choice *choice) {
  step s;
  FMLAI_TRY(prepare(context, params, &s));
  *choice = choice_of(&s);
  return FMLA_OK;
}

static fmla_status decode_workspace(const fmla_context *context, const fmla_decode_params *params,
                                    size_t *bytes) {
  step s;
  FMLAI_TRY(prepare(context, params, &s));
  *bytes = s.workspace_bytes;
  return FMLA_OK;
}

static fmla_status decode(fmla_context *context, const fmla_decode_params *params, void *workspace,
                          size_t workspace_bytes, void *stream) {
  const fmlai_cuda_context *c = of(context);
  step s;
  FMLAI_TRY(prepare(context, params, &s));
  FMLAI_TRY(fmlai_check_workspace(workspace, workspace_bytes, s.workspace_bytes));
  FMLAI_TRY(fmlai_cuda_check_pointers(params));
  const fmlai_choice choice = choice_of(&s);
  fmlai_report_choice(context, params, &choice);
  if (params->total_q == 0)
    return FMLA_OK;
  FMLAI_TRY(fmlai_cuda_enter(c));
  return fmlai_cuda_leave(c, fmlai_cuda_decode(c, params, &s.choice, &s.layout, workspace, stream));
}

static fmla_status merge(fmla_context *context, const fmla_merge_params *params, void *stream) {
  const fmlai_cuda_context *c = of(context);
  if (params->batch_size == 0 || params->seqlen_q == 0)
    return FMLA_OK;
  FMLAI_TRY(fmlai_cuda_enter(c));
  return fmlai_cuda_leave(c, fmlai_cuda_merge(c, params, stream));
}

/* ---- Memory and streams ---------------------------------------------------------------------------- */

/* What was had is given back where only the way out of the context fails. */
static fmla_status buffer_alloc(fmla_context *context, size_t bytes, void **buffer) {
  const fmlai_cuda_context *c = of(context);
  void *memory = NULL;
  FMLAI_TRY(fmlai_cuda_enter(c));
  const fmla_status status = fmlai_cuda_leave(c, FMLAI_CUDA_CALL(c->driver, cuMemAlloc, &memory, bytes));
  if (status != FMLA_OK && memory != NULL)
    c->driver->cuMemFree(memory);
  *buffer = status == FMLA_OK ? memory : NULL;
  return status;
}

static fmla_status buffer_free(fmla_context *context, void *buffer) {
  const fmlai_cuda_context *c = of(context);
  FMLAI_TRY(fmlai_cuda_enter(c));
  return fmlai_cuda_leave(c, FMLAI_CUDA_CALL(c->driver, cuMemFree, buffer));
}

static fmla_status upload(const fmlai_cuda_context *c, void *buffer, const void *host, size_t bytes,
                          CUstream stream) {
  FMLAI_TRY(FMLAI_CUDA_CALL(c->driver, cuMemcpyHtoDAsync, buffer, host, bytes, stream));
  return FMLAI_CUDA_CALL(c->driver, cuStreamSynchronize, stream);
}

static fmla_status buffer_upload(fmla_context *context, void *buffer, const void *host, size_t bytes,
                                 void *stream) {
  const fmlai_cuda_context *c = of(context);
  FMLAI_TRY(fmlai_cuda_enter(c));
  return fmlai_cuda_leave(c, upload(c, buffer, host, bytes, stream));
}

static fmla_status download(const fmlai_cuda_context *c, void *host, const void *buffer, size_t bytes,
                            CUstream stream) {
  FMLAI_TRY(FMLAI_CUDA_CALL(c->driver, cuMemcpyDtoHAsync, host, buffer, bytes, stream));
  return FMLAI_CUDA_CALL(c->driver, cuStreamSynchronize, stream);
}

static fmla_status buffer_download(fmla_context *context, void *host, const void *buffer, size_t bytes,
                                   void *stream) {
  const fmlai_cuda_context *c = of(context);
  FMLAI_TRY(fmlai_cuda_enter(c));
  return fmlai_cuda_leave(c, download(c, host, buffer, bytes, stream));
}

static fmla_status stream_create(fmla_context *context, void **stream) {
  const fmlai_cuda_context *c = of(context);
  CUstream created = NULL;
  FMLAI_TRY(fmlai_cuda_enter(c));
  const fmla_status status =
      fmlai_cuda_leave(c, FMLAI_CUDA_CALL(c->driver, cuStreamCreate, &created, CU_STREAM_NON_BLOCKING));
  if (status != FMLA_OK && created != NULL)
    c->driver->cuStreamDestroy(created);
  *stream = status == FMLA_OK ? created : NULL;
  return status;
}

/* The default stream is nobody's to destroy. */
static fmla_status stream_destroy(fmla_context *context, void *stream) {
  const fmlai_cuda_context *c = of(context);
  if (stream == NULL)
    return FMLA_OK;
  FMLAI_TRY(fmlai_cuda_enter(c));
  return fmlai_cuda_leave(c, FMLAI_CUDA_CALL(c->driver, cuStreamDestroy, stream));
}

static fmla_status stream_synchronize(fmla_context *context, void *stream) {
  const fmlai_cuda_context *c = of(context);
  FMLAI_TRY(fmlai_cuda_enter(c));
  return fmlai_cuda_leave(c, FMLAI_CUDA_CALL(c->driver, cuStreamSynchronize, stream));
}

const fmlai_backend fmlai_cuda_backend = {
    .name = "cuda",
    .device_count = fmlai_cuda_num_devices,
    .device_info = device_info,
    .kernel_count = kernel_count,
    .kernel_info = kernel_info,
    .open = fmlai_cuda_context_open,
    .close = fmlai_cuda_context_close,
    .choose = choose,
    .decode_workspace = decode_workspace,
    .decode = decode,
    .merge = merge,
    .buffer_alloc = buffer_alloc,
    .buffer_free = buffer_free,
    .buffer_upload = buffer_upload,
    .buffer_download = buffer_download,
    .stream_create = stream_create,
    .stream_destroy = stream_destroy,
    .stream_synchronize = stream_synchronize,
    .absence = fmlai_cuda_absence,
};
