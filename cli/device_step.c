#include "device_step.h"

#include "common.h"
#include "cost.h"

/* Device memory with the content of `host`, if that is not NULL. After a failure of an earlier call in *status,
   or of its own, returns NULL. */
static void *place(device_step *step, const void *host, size_t bytes, fmla_status *status) {
  void *buffer = NULL;
  if (*status == FMLA_OK)
    *status = fmla_buffer_alloc(step->context, bytes, &buffer);
  if (*status != FMLA_OK)
    return NULL;
  step->buffers[step->num_buffers++] = buffer;
  if (host != NULL)
    *status = fmla_buffer_upload(step->context, buffer, host, bytes, step->stream);
  return buffer;
}

int device_step_place(fmla_context *context, const fmla_decode_params *host, device_step *step) {
  *step = (device_step){.context = context, .params = *host};
  fmla_status status = fmla_decode_workspace(context, host, &step->workspace_bytes);
  if (status == FMLA_OK)
    status = fmla_stream_create(context, &step->stream);
  if (status != FMLA_OK)
    return fail_status(status);

  const tensor_bytes bytes = count_tensor_bytes(host);
  fmla_decode_params *device = &step->params;
  device->q = place(step, host->q, bytes.q, &status);
  device->q_rope = place(step, host->q_rope, bytes.q_rope, &status);
  device->kv_cache = place(step, host->kv_cache, bytes.kv_cache, &status);
  device->block_table = place(step, host->block_table, bytes.block_table, &status);
  device->cache_seqlens = place(step, host->cache_seqlens, bytes.cache_seqlens, &status);
  device->cu_seqlens_q = place(step, host->cu_seqlens_q, bytes.cu_seqlens_q, &status);
  device->sink = place(step, host->sink, bytes.sink, &status);
  device->out = place(step, NULL, bytes.out, &status);
  device->lse = place(step, NULL, bytes.lse, &status);
  step->workspace = place(step, NULL, step->workspace_bytes, &status);
  return fail_status(status);
}

void device_step_free(device_step *step) {
  for (int i = 0; i < step->num_buffers; i++)
    fmla_buffer_free(step->context, step->buffers[i]);
  if (step->stream != NULL)
    fmla_stream_destroy(step->context, step->stream);
  *step = (device_step){0};
}

fmla_status device_step_run(const device_step *step) {
  const fmla_status status =
      fmla_decode(step->context, &step->params, step->workspace, step->workspace_bytes, step->stream);
  return status == FMLA_OK ? fmla_stream_synchronize(step->context, step->stream) : status;
}

int device_step_fetch(const device_step *step, const fmla_decode_params *host) {
  const tensor_bytes bytes = count_tensor_bytes(host);
  fmla_status status =
      fmla_buffer_download(step->context, host->out, step->params.out, bytes.out, step->stream);
  if (status == FMLA_OK)
    status = fmla_buffer_download(step->context, host->lse, step->params.lse, bytes.lse, step->stream);
  return fail_status(status);
}
