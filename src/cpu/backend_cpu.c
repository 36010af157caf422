/* The CPU's table of functions: its one device, its contexts, the choice of a kernel. */
#include "backend.h"
#include "check.h"
#include "cpu/decode.h"
#include "cpu/features.h"
#include "cpu/kernel.h"
#include "cpu/threads.h"
#include "status.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const fmlai_cpu_kernel *const kernels[] = {
#define X(name) &fmlai_cpu_kernel_##name,
    FMLAI_CPU_KERNELS(X)
#undef X
};
static const int32_t num_kernels = sizeof kernels / sizeof kernels[0];

typedef struct cpu_context {
  fmla_context base;
  fmlai_cpu_crew crew;
  const fmlai_cpu_kernel *only; /* the kernel that fmla_config names, or NULL */
  uint32_t features;
} cpu_context;

static bool runs_on(const fmlai_cpu_kernel *kernel, uint32_t features) {
  return (kernel->features & ~features) == 0;
}

/* ---- Enumeration ----------------------------------------------------------------------------------- */

static int32_t device_count(void) {
  return 1;
}

static void device_info(int32_t index, fmla_device_info *info) {
  (void)index;
  snprintf(info->name, sizeof info->name, "cpu");
  fmlai_cpu_description(info->description, sizeof info->description);
  fmlai_cpu_feature_names(fmlai_cpu_features(), info->features, sizeof info->features);
  info->num_units = fmlai_available_threads();
  const long pages = sysconf(_SC_PHYS_PAGES), page_bytes = sysconf(_SC_PAGESIZE);
  info->memory_bytes = pages > 0 && page_bytes > 0 ? (uint64_t)pages * (uint64_t)page_bytes : 0;
}

static int32_t kernel_count(void) {
  return num_kernels;
}

static void kernel_info(int32_t index, fmla_kernel_info *info) {
  const fmlai_cpu_kernel *kernel = kernels[index];
  info->name = kernel->name;
  info->needs = kernel->needs;
  info->takes = kernel->takes;
  info->available = runs_on(kernel, fmlai_cpu_features());
  info->probability_dtype = kernel->probability_dtype;
}

/* ---- Contexts -------------------------------------------------------------------------------------- */

static fmla_status find_kernel(const char *name, uint32_t features, const fmlai_cpu_kernel **found) {
  for (int32_t i = 0; i < num_kernels; i++) {
    if (strcmp(kernels[i]->name, name) != 0)
      continue;
    if (!runs_on(kernels[i], features))
      return FMLAI_FAIL(FMLA_ERROR_UNSUPPORTED, "kernel is \"%s\", but this CPU cannot run it: it needs %s",
                        name, kernels[i]->needs);
    *found = kernels[i];
    return FMLA_OK;
  }
  return FMLAI_FAIL(
      FMLA_ERROR_UNSUPPORTED,
      "kernel is \"%.64s\", but the CPU has no such kernel; fmla_get_kernel_info lists those there are", name);
}

static fmla_status cpu_open(const fmla_config *config, int32_t device, fmla_context **context) {
  (void)device;
  const uint32_t features = fmlai_cpu_features();
  const fmlai_cpu_kernel *only = NULL;
  if (config->kernel != NULL)
    FMLAI_TRY(find_kernel(config->kernel, features, &only));
  cpu_context *c = calloc(1, sizeof *c);
  if (c == NULL)
    return FMLAI_FAIL(FMLA_ERROR_OUT_OF_MEMORY, "no memory for a context of %zu bytes", sizeof *c);
  c->crew.num_processors = fmlai_available_threads();
  const int32_t num_threads = config->num_threads > 0 ? config->num_threads : c->crew.num_processors;
  const fmla_status status = fmlai_pool_create(num_threads, &c->crew.pool);
  if (status != FMLA_OK) {
    free(c);
    return status;
  }
  c->only = only;
  c->features = features;
  c->base.backend = &fmlai_cpu_backend;
  c->base.info.num_threads = fmlai_pool_num_threads(c->crew.pool);
  snprintf(c->base.info.device, sizeof c->base.info.device, "cpu");
  *context = &c->base;
  return FMLA_OK;
}

static void cpu_close(fmla_context *context) {
  cpu_context *c = (cpu_context *)context;
  fmlai_pool_destroy(c->crew.pool);
  free(c);
}

/* ---- Decode and merge ------------------------------------------------------------------------------ */

/* The most rows of q that a sequence has for a KV head; where others in the batch must not matter, of a token.
 */
static int64_t most_rows(const fmla_decode_params *p) {
  const int64_t group = p->num_q_heads / p->num_kv_heads;
  return (p->flags & FMLA_BATCH_INVARIANT) != 0 ? group : group * p->max_seqlen_q;
}

static fmla_status choose_kernel(const fmla_context *context, const fmla_decode_params *params,
                                 const fmlai_cpu_kernel **chosen, const char **reason) {
  const cpu_context *c = (const cpu_context *)context;
  if (c->only != NULL) {
    if (!c->only->serves(params))
      return FMLAI_FAIL(FMLA_ERROR_UNSUPPORTED,
                        "kernel \"%s\", which the context was opened with, takes %s only", c->only->name,
                        c->only->takes);
    *chosen = c->only;
    *reason = "the context was opened with it";
    return FMLA_OK;
  }
  for (int32_t i = 0; i < num_kernels; i++)
    if (runs_on(kernels[i], c->features) && kernels[i]->serves(params) &&
        most_rows(params) >= kernels[i]->fit_rows) {
      *chosen = kernels[i];
      *reason = "the first in order of preference that this CPU runs and that takes and fits the call";
      return FMLA_OK;
    }
  return FMLAI_FAIL(FMLA_ERROR_INTERNAL, "no kernel takes the call, though the portable one takes every call");
}

static fmla_status choose(const fmla_context *context, const fmla_decode_params *params, fmlai_choice *choice) {
  const fmlai_cpu_kernel *kernel = NULL;
  FMLAI_TRY(choose_kernel(context, params, &kernel, &choice->reason));
  choice->kernel = kernel->name;
  return FMLA_OK;
}

/* What the kernel needs, and the others that calls with fewer rows may take: so that it never shrinks as a step
   grows. */
static fmla_status decode_workspace(const fmla_context *context, const fmla_decode_params *params,
                                    size_t *bytes) {
  const cpu_context *c = (const cpu_context *)context;
  const fmlai_cpu_kernel *kernel = NULL;
  const char *reason;
  FMLAI_TRY(choose_kernel(context, params, &kernel, &reason));
  FMLAI_TRY(fmlai_cpu_decode_workspace(kernel, params, &c->crew, bytes));
  for (int32_t i = 0; i < num_kernels && c->only == NULL; i++) {
    size_t needed;
    if (kernels[i]->fit_rows >= kernel->fit_rows || !runs_on(kernels[i], c->features) ||
        !kernels[i]->serves(params))
      continue;
    kernel = kernels[i]; /* the next that fewer rows lead to */
    FMLAI_TRY(fmlai_cpu_decode_workspace(kernel, params, &c->crew, &needed));
    *bytes = needed > *bytes ? needed : *bytes;
  }
  return FMLA_OK;
}

static fmla_status check_no_stream(const void *stream) {
  if (stream == NULL)
    return FMLA_OK;
  return FMLAI_FAIL(FMLA_ERROR_INVALID_ARGUMENT, "stream is %p, but on the CPU must be NULL: it has no streams",
                    stream);
}

static fmla_status decode(fmla_context *context, const fmla_decode_params *params, void *workspace,
                          size_t workspace_bytes, void *stream) {
  const cpu_context *c = (const cpu_context *)context;
  FMLAI_TRY(check_no_stream(stream));
  const fmlai_cpu_kernel *kernel = NULL;
  fmlai_choice choice;
  FMLAI_TRY(choose_kernel(context, params, &kernel, &choice.reason));
  choice.kernel = kernel->name;
  size_t needed;
  FMLAI_TRY(decode_workspace(context, params, &needed));
  FMLAI_TRY(fmlai_check_workspace(workspace, workspace_bytes, needed));
  FMLAI_TRY(fmlai_check_decode_values(params));
  fmlai_report_choice(context, params, &choice);
  fmlai_cpu_decode(kernel, params, workspace, &c->crew);
  return FMLA_OK;
}

static fmla_status merge(fmla_context *context, const fmla_merge_params *params, void *stream) {
  FMLAI_TRY(check_no_stream(stream));
  fmlai_cpu_merge(params, ((const cpu_context *)context)->crew.pool);
  return FMLA_OK;
}

/* ---- Memory and streams: the host's own ------------------------------------------------------------ */

static fmla_status buffer_alloc(fmla_context *context, size_t bytes, void **buffer) {
  (void)context;
  if (posix_memalign(buffer, 256, bytes) == 0)
    return FMLA_OK;
  *buffer = NULL;
  return FMLAI_FAIL(FMLA_ERROR_OUT_OF_MEMORY, "no memory for a buffer of %zu bytes", bytes);
}

static fmla_status buffer_free(fmla_context *context, void *buffer) {
  (void)context;
  free(buffer);
  return FMLA_OK;
}

static fmla_status copy(void *to, const void *from, size_t bytes, const void *stream) {
  FMLAI_TRY(check_no_stream(stream));
  memcpy(to, from, bytes);
  return FMLA_OK;
}

static fmla_status buffer_upload(fmla_context *context, void *buffer, const void *host, size_t bytes,
                                 void *stream) {
  (void)context;
  return copy(buffer, host, bytes, stream);
}

static fmla_status buffer_download(fmla_context *context, void *host, const void *buffer, size_t bytes,
                                   void *stream) {
  (void)context;
  return copy(host, buffer, bytes, stream);
}

static fmla_status stream_create(fmla_context *context, void **stream) {
  (void)context;
  *stream = NULL;
  return FMLA_OK;
}

static fmla_status stream_nothing(fmla_context *context, void *stream) {
  (void)context;
  return check_no_stream(stream);
}

const fmlai_backend fmlai_cpu_backend = {
    .name = "cpu",
    .device_count = device_count,
    .device_info = device_info,
    .kernel_count = kernel_count,
    .kernel_info = kernel_info,
    .open = cpu_open,
    .close = cpu_close,
    .choose = choose,
    .decode_workspace = decode_workspace,
    .decode = decode,
    .merge = merge,
    .buffer_alloc = buffer_alloc,
    .buffer_free = buffer_free,
    .buffer_upload = buffer_upload,
    .buffer_download = buffer_download,
    .stream_create = stream_create,
    .stream_destroy = stream_nothing,
    .stream_synchronize = stream_nothing,
};
