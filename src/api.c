/* The public calls: check, then hand over to the context's backend. */
#include "backend.h"
#include "check.h"
#include "status.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define QUOTE(x)                            #x
#define VERSION_STRING(major, minor, patch) QUOTE(major) "." QUOTE(minor) "." QUOTE(patch)

uint32_t fmla_version(void) {
  return FMLA_VERSION_MAJOR * 1000000u + FMLA_VERSION_MINOR * 1000u + FMLA_VERSION_PATCH;
}

const char *fmla_version_string(void) {
  return VERSION_STRING(FMLA_VERSION_MAJOR, FMLA_VERSION_MINOR, FMLA_VERSION_PATCH);
}

/* ---- Enumeration ------------------------------------------------------------------------------------- */

/* Fills as much of the caller's struct as the caller's header knows. */
static void copy_out(void *to, size_t to_bytes, void *from, size_t from_bytes) {
  const size_t known = to_bytes < from_bytes ? to_bytes : from_bytes;
  memcpy(from, &to_bytes, sizeof to_bytes); /* struct_size stays the caller's */
  memcpy(to, from, known);
}

static int32_t devices_of(const fmlai_backend *backend) {
  return backend->device_count();
}
static int32_t kernels_of(const fmlai_backend *backend) {
  return backend->kernel_count();
}

static int32_t count_all(int32_t (*count)(const fmlai_backend *)) {
  int32_t all = 0;
  for (int32_t b = 0; b < fmlai_num_backends; b++)
    all += count(fmlai_backends[b]);
  return all;
}

/* The backend that has number *index of what `count` counts, over all backends; *index becomes its own number.
 */
static fmla_status find_backend(int32_t *index, int32_t (*count)(const fmlai_backend *),
                                const fmlai_backend **backend) {
  const int32_t all = count_all(count);
  if (*index < 0 || *index >= all)
    return FMLAI_FAIL(FMLA_ERROR_INVALID_ARGUMENT, "index is %d, but must be 0 to %d", (int)*index,
                      (int)all - 1);
  int32_t b = 0;
  for (; *index >= count(fmlai_backends[b]); b++)
    *index -= count(fmlai_backends[b]);
  *backend = fmlai_backends[b];
  return FMLA_OK;
}

int32_t fmla_device_count(void) {
  return count_all(devices_of);
}

fmla_status fmla_get_device_info(int32_t index, fmla_device_info *info) {
  FMLAI_TRY(fmlai_check_given("info", info));
  FMLAI_TRY(fmlai_check_struct_size("fmla_device_info", info->struct_size, sizeof *info));
  const fmlai_backend *backend = NULL;
  FMLAI_TRY(find_backend(&index, devices_of, &backend));
  fmla_device_info found = {0};
  backend->device_info(index, &found);
  copy_out(info, info->struct_size, &found, sizeof found);
  return FMLA_OK;
}

int32_t fmla_kernel_count(void) {
  return count_all(kernels_of);
}

fmla_status fmla_get_kernel_info(int32_t index, fmla_kernel_info *info) {
  FMLAI_TRY(fmlai_check_given("info", info));
  FMLAI_TRY(fmlai_check_struct_size("fmla_kernel_info", info->struct_size, sizeof *info));
  const fmlai_backend *backend = NULL;
  FMLAI_TRY(find_backend(&index, kernels_of, &backend));
  fmla_kernel_info found = {.backend = backend->name};
  backend->kernel_info(index, &found);
  copy_out(info, info->struct_size, &found, sizeof found);
  return FMLA_OK;
}

/* ---- Contexts ---------------------------------------------------------------------------------------- */

fmla_status fmla_open(const fmla_config *given, fmla_context **context) {
  FMLAI_TRY(fmlai_check_given("context", context));
  *context = NULL;
  fmla_config config;
  FMLAI_TRY(fmlai_check_config(given, &config));
  const fmlai_backend *backend = NULL;
  int32_t device = 0;
  FMLAI_TRY(fmlai_find_device(config.device, &backend, &device));
  FMLAI_TRY(backend->open(&config, device, context));

  const char *debug = getenv("FMLA_DEBUG");
  (*context)->debug = debug != NULL && *debug != '\0' && strcmp(debug, "0") != 0;
  if ((*context)->debug)
    fprintf(stderr, "flashmla: opened %s with %d threads, %d multiprocessors\n", (*context)->info.device,
            (int)(*context)->info.num_threads, (int)(*context)->info.num_sms);
  return FMLA_OK;
}

void fmla_close(fmla_context *context) {
  if (context != NULL)
    context->backend->close(context);
}

fmla_status fmla_get_context_info(const fmla_context *context, fmla_context_info *info) {
  FMLAI_TRY(fmlai_check_given("context", context));
  FMLAI_TRY(fmlai_check_given("info", info));
  FMLAI_TRY(fmlai_check_struct_size("fmla_context_info", info->struct_size, sizeof *info));
  fmla_context_info found = context->info;
  copy_out(info, info->struct_size, &found, sizeof found);
  return FMLA_OK;
}

/* ---- Decode and merge -------------------------------------------------------------------------------- */

fmla_status fmla_decode_workspace(const fmla_context *context, const fmla_decode_params *given,
                                  size_t *workspace_bytes) {
  FMLAI_TRY(fmlai_check_given("context", context));
  FMLAI_TRY(fmlai_check_given("workspace_bytes", workspace_bytes));
  *workspace_bytes = 0;
  fmla_decode_params params;
  FMLAI_TRY(fmlai_check_decode_extents(given, &params));
  return context->backend->decode_workspace(context, &params, workspace_bytes);
}

fmla_status fmla_decode_kernel(const fmla_context *context, const fmla_decode_params *given,
                               const char **kernel, const char **reason) {
  FMLAI_TRY(fmlai_check_given("context", context));
  FMLAI_TRY(fmlai_check_given("kernel", kernel));
  fmla_decode_params params;
  FMLAI_TRY(fmlai_check_decode_extents(given, &params));
  fmlai_choice choice;
  FMLAI_TRY(context->backend->choose(context, &params, &choice));
  *kernel = choice.kernel;
  if (reason != NULL)
    *reason = choice.reason;
  return FMLA_OK;
}

fmla_status fmla_decode(fmla_context *context, const fmla_decode_params *given, void *workspace,
                        size_t workspace_bytes, void *stream) {
  FMLAI_TRY(fmlai_check_given("context", context));
  fmla_decode_params params;
  FMLAI_TRY(fmlai_check_decode_extents(given, &params));
  FMLAI_TRY(fmlai_check_decode_pointers(&params));
  return context->backend->decode(context, &params, workspace, workspace_bytes, stream);
}

fmla_status fmla_merge(fmla_context *context, const fmla_merge_params *given, void *stream) {
  FMLAI_TRY(fmlai_check_given("context", context));
  fmla_merge_params params;
  FMLAI_TRY(fmlai_check_merge(given, &params));
  return context->backend->merge(context, &params, stream);
}

/* ---- Memory and streams ------------------------------------------------------------------------------ */

fmla_status fmla_buffer_alloc(fmla_context *context, size_t bytes, void **buffer) {
  FMLAI_TRY(fmlai_check_given("context", context));
  FMLAI_TRY(fmlai_check_given("buffer", buffer));
  *buffer = NULL;
  return bytes == 0 ? FMLA_OK : context->backend->buffer_alloc(context, bytes, buffer);
}

fmla_status fmla_buffer_free(fmla_context *context, void *buffer) {
  FMLAI_TRY(fmlai_check_given("context", context));
  return buffer == NULL ? FMLA_OK : context->backend->buffer_free(context, buffer);
}

fmla_status fmla_buffer_upload(fmla_context *context, void *buffer, const void *host, size_t bytes,
                               void *stream) {
  FMLAI_TRY(fmlai_check_given("context", context));
  if (bytes == 0)
    return FMLA_OK;
  FMLAI_TRY(fmlai_check_given("buffer", buffer));
  FMLAI_TRY(fmlai_check_given("host", host));
  return context->backend->buffer_upload(context, buffer, host, bytes, stream);
}

fmla_status fmla_buffer_download(fmla_context *context, void *host, const void *buffer, size_t bytes,
                                 void *stream) {
  FMLAI_TRY(fmlai_check_given("context", context));
  if (bytes == 0)
    return FMLA_OK;
  FMLAI_TRY(fmlai_check_given("host", host));
  FMLAI_TRY(fmlai_check_given("buffer", buffer));
  return context->backend->buffer_download(context, host, buffer, bytes, stream);
}

fmla_status fmla_stream_create(fmla_context *context, void **stream) {
  FMLAI_TRY(fmlai_check_given("context", context));
  FMLAI_TRY(fmlai_check_given("stream", stream));
  *stream = NULL;
  return context->backend->stream_create(context, stream);
}

fmla_status fmla_stream_destroy(fmla_context *context, void *stream) {
  FMLAI_TRY(fmlai_check_given("context", context));
  return context->backend->stream_destroy(context, stream);
}

fmla_status fmla_stream_synchronize(fmla_context *context, void *stream) {
  FMLAI_TRY(fmlai_check_given("context", context));
  return context->backend->stream_synchronize(context, stream);
}
