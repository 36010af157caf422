/*
 * fake_cuda.c: the driver's functions and the records of their calls. Those of memory are in fake_memory.c, of
 * graphs and events in fake_graph.c.
 *
 * SPDX-License-Identifier: MIT
 */
#include "fake_internal.h"

#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_DEPTH = 8, MAX_CALLS = 256, MAX_FUNCTIONS = 16, OWN_CONTEXTS = 8 };

fake_settings fake = {
    .version = 13000,
    .num_devices = 2,
    .devices = {{"Fake A100", 8, 0, 132, 232448, 233472}, {"Fake RTX 4090", 8, 9, 128, 101376, 102400}},
    .ptx_version = 90,
    .ctas_per_sm = 2,
    .l2_bytes = 1 << 20,
    .free_bytes = (size_t)1 << 30,
    .milliseconds = 10};

struct CUctx_st {
  CUdevice device;
};
struct CUfunc_st {
  char name[64];
  CUmodule module;
  int max_shared;
};
struct CUmod_st {
  CUmodule next;
  CUcontext context;
  int num_functions;
  struct CUfunc_st functions[MAX_FUNCTIONS];
};

static struct CUctx_st primary[FAKE_DEVICES] = {{0}, {1}, {2}}, own[OWN_CONTEXTS];
static int num_own;

/* ---- Records ------------------------------------------------------------------------------------ */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct {
  bool initialised;
  int retained, modules, allocations, streams, events, graphs;
  int num_calls, failing, num_launches;
  CUresult result;
  const char *failed;
  const char *calls[MAX_CALLS];
  fake_launch launches[FAKE_LAUNCHES];
  CUmodule loaded; /* a list */
} state = {.failing = -1};

static _Thread_local CUcontext stack[MAX_DEPTH];
static _Thread_local int depth;

static void count(int *what, int by) {
  pthread_mutex_lock(&lock);
  *what += by;
  pthread_mutex_unlock(&lock);
}

CUresult fake_record(const char *call) {
  CUresult result = CUDA_SUCCESS;
  pthread_mutex_lock(&lock);
  if (state.num_calls < MAX_CALLS)
    state.calls[state.num_calls] = call;
  if (state.num_calls++ == state.failing) {
    state.failed = call;
    result = state.result;
  }
  pthread_mutex_unlock(&lock);
  return result;
}

void fake_count_allocations(int by) {
  count(&state.allocations, by);
}
void fake_count_events(int by) {
  count(&state.events, by);
}
void fake_count_graphs(int by) {
  count(&state.graphs, by);
}
bool fake_has_current(void) {
  return depth > 0;
}

void fake_start(int index, CUresult result) {
  pthread_mutex_lock(&lock);
  state.num_calls = state.num_launches = 0;
  state.failing = index;
  state.result = result;
  state.failed = NULL;
  pthread_mutex_unlock(&lock);
}

fake_balance fake_now(void) {
  pthread_mutex_lock(&lock);
  const fake_balance now = {depth,         state.retained, state.modules, state.allocations,
                            state.streams, state.events,   state.graphs};
  pthread_mutex_unlock(&lock);
  return now;
}

int fake_num_calls(void) {
  return state.num_calls;
}
const char *fake_call(int index) {
  return state.calls[index];
}
const char *fake_failed_call(void) {
  return state.failed;
}
int fake_num_launches(void) {
  return state.num_launches;
}
const fake_launch *fake_launch_at(int index) {
  return &state.launches[index % FAKE_LAUNCHES];
}

CUcontext fake_context(int device) {
  own[num_own].device = device;
  return &own[num_own++];
}

void fake_set_current(CUcontext context) {
  depth = context != NULL;
  stack[0] = context;
}

CUcontext fake_current(void) {
  return depth > 0 ? stack[depth - 1] : NULL;
}

void fake_capture(CUstream stream, bool is_captured) {
  stream->is_captured = is_captured;
}

/* ---- Driver and devices --------------------------------------------------------------------------- */

CUresult fake_cuDriverGetVersion(int *version) {
  RECORD("cuDriverGetVersion");
  *version = fake.version;
  return CUDA_SUCCESS;
}

CUresult fake_cuGetErrorName(CUresult result, const char **name) {
  static const struct {
    CUresult result;
    const char *name;
  } names[] = {{CUDA_ERROR_OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY"},
               {CUDA_ERROR_NO_DEVICE, "CUDA_ERROR_NO_DEVICE"},
               {CUDA_ERROR_ILLEGAL_ADDRESS, "CUDA_ERROR_ILLEGAL_ADDRESS"},
               {NOT_INITIALIZED, "CUDA_ERROR_NOT_INITIALIZED"},
               {INVALID_CONTEXT, "CUDA_ERROR_INVALID_CONTEXT"},
               {INVALID_HANDLE, "CUDA_ERROR_INVALID_HANDLE"}};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++)
    if (names[i].result == result) {
      *name = names[i].name;
      return CUDA_SUCCESS;
    }
  *name = NULL;
  return INVALID_VALUE;
}

CUresult fake_cuGetErrorString(CUresult result, const char **text) {
  const char *name;
  *text = fake_cuGetErrorName(result, &name) == CUDA_SUCCESS ? "the fake driver's words" : NULL;
  return *text != NULL ? CUDA_SUCCESS : INVALID_VALUE;
}

CUresult fake_cuInit(unsigned flags) {
  RECORD("cuInit");
  state.initialised = true;
  return flags == 0 ? CUDA_SUCCESS : INVALID_VALUE;
}

CUresult fake_cuDeviceGetCount(int *number) {
  RECORD("cuDeviceGetCount");
  REQUIRE(state.initialised, NOT_INITIALIZED);
  *number = fake.num_devices;
  return CUDA_SUCCESS;
}

CUresult fake_cuDeviceGet(CUdevice *device, int ordinal) {
  RECORD("cuDeviceGet");
  REQUIRE(ordinal >= 0 && ordinal < fake.num_devices, INVALID_DEVICE);
  *device = ordinal;
  return CUDA_SUCCESS;
}

CUresult fake_cuDeviceGetName(char *name, int bytes, CUdevice device) {
  RECORD("cuDeviceGetName");
  snprintf(name, (size_t)bytes, "%s", fake.devices[device].name);
  return CUDA_SUCCESS;
}

CUresult fake_cuDeviceTotalMem(size_t *bytes, CUdevice device) {
  RECORD("cuDeviceTotalMem");
  *bytes = ((size_t)device + 1) << 34;
  return CUDA_SUCCESS;
}

CUresult fake_cuDeviceGetAttribute(int *value, CUdevice_attribute attribute, CUdevice device) {
  const fake_device *d = &fake.devices[device];
  RECORD("cuDeviceGetAttribute");
  switch (attribute) {
  case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT:
    *value = d->num_sms;
    return CUDA_SUCCESS;
  case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR:
    *value = d->major;
    return CUDA_SUCCESS;
  case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR:
    *value = d->minor;
    return CUDA_SUCCESS;
  case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR:
    *value = d->shared_per_sm;
    return CUDA_SUCCESS;
  case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN:
    *value = d->shared_per_cta;
    return CUDA_SUCCESS;
  case CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE:
    *value = fake.l2_bytes;
    return CUDA_SUCCESS;
  case CU_DEVICE_ATTRIBUTE_RESERVED_SHARED_MEMORY_PER_BLOCK:
    *value = 1024;
    return CUDA_SUCCESS;
  default:
    return INVALID_VALUE;
  }
}

/* ---- Contexts ------------------------------------------------------------------------------------- */

CUresult fake_cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice device) {
  RECORD("cuDevicePrimaryCtxRetain");
  count(&state.retained, 1);
  *context = &primary[device];
  return CUDA_SUCCESS;
}

CUresult fake_cuDevicePrimaryCtxRelease(CUdevice device) {
  (void)device;
  RECORD("cuDevicePrimaryCtxRelease");
  count(&state.retained, -1);
  return CUDA_SUCCESS;
}

CUresult fake_cuCtxGetCurrent(CUcontext *context) {
  RECORD("cuCtxGetCurrent");
  *context = fake_current();
  return CUDA_SUCCESS;
}

CUresult fake_cuCtxGetDevice(CUdevice *device) {
  RECORD("cuCtxGetDevice");
  REQUIRE(depth > 0, INVALID_CONTEXT);
  *device = fake_current()->device;
  return CUDA_SUCCESS;
}

CUresult fake_cuCtxPushCurrent(CUcontext context) {
  RECORD("cuCtxPushCurrent");
  REQUIRE(context != NULL && depth < MAX_DEPTH, INVALID_VALUE);
  stack[depth++] = context;
  return CUDA_SUCCESS;
}

CUresult fake_cuCtxPopCurrent(CUcontext *context) {
  RECORD("cuCtxPopCurrent");
  REQUIRE(depth > 0, INVALID_CONTEXT);
  *context = stack[--depth];
  return CUDA_SUCCESS;
}

/* ---- Modules and functions ------------------------------------------------------------------------ */

CUresult fake_cuModuleLoadData(CUmodule *module, const void *image) {
  RECORD("cuModuleLoadData");
  REQUIRE(depth > 0, INVALID_CONTEXT);
  CUmodule m = calloc(1, sizeof *m);
  REQUIRE(m != NULL, CUDA_ERROR_OUT_OF_MEMORY);
  m->context = fake_current();
  for (const char *at = image; *at != '\0'; at = strchr(at, ' ') + 1) {
    struct CUfunc_st *f = &m->functions[m->num_functions++];
    snprintf(f->name, sizeof f->name, "%.*s", (int)strcspn(at, " "), at);
    f->module = m;
    f->max_shared = 48 * 1024;
  }
  pthread_mutex_lock(&lock);
  m->next = state.loaded;
  state.loaded = m;
  state.modules++;
  pthread_mutex_unlock(&lock);
  *module = m;
  return CUDA_SUCCESS;
}

CUresult fake_cuModuleUnload(CUmodule module) {
  RECORD("cuModuleUnload");
  REQUIRE(module->context == fake_current(), INVALID_CONTEXT);
  pthread_mutex_lock(&lock);
  CUmodule *at = &state.loaded;
  while (*at != module)
    at = &(*at)->next;
  *at = module->next;
  state.modules--;
  pthread_mutex_unlock(&lock);
  free(module);
  return CUDA_SUCCESS;
}

CUresult fake_cuModuleGetFunction(CUfunction *function, CUmodule module, const char *name) {
  RECORD("cuModuleGetFunction");
  for (int i = 0; i < module->num_functions; i++)
    if (strcmp(module->functions[i].name, name) == 0) {
      *function = &module->functions[i];
      return CUDA_SUCCESS;
    }
  return CUDA_ERROR_NOT_FOUND;
}

CUresult fake_cuTensorMapEncodeTiled(void *map, int type, uint32_t rank, const void *tensor,
                                     const uint64_t *extents, const uint64_t *strides_bytes,
                                     const uint32_t *box, const uint32_t *element_strides, int interleave,
                                     int swizzle, int l2_promotion, int fill) {
  (void)tensor, (void)interleave, (void)swizzle, (void)l2_promotion, (void)fill;
  RECORD("cuTensorMapEncodeTiled");
  REQUIRE(type == CU_TENSOR_MAP_DATA_TYPE_UINT16 && rank == 4, INVALID_VALUE);
  for (uint32_t i = 0; i < rank; i++) {
    REQUIRE(extents[i] > 0 && extents[i] <= UINT32_MAX && box[i] > 0 && box[i] <= 256, INVALID_VALUE);
    REQUIRE(element_strides[i] == 1, INVALID_VALUE);
    REQUIRE(i == 0 || (strides_bytes[i - 1] % 16 == 0 && strides_bytes[i - 1] >> 40 == 0), INVALID_VALUE);
  }
  memcpy(map, box, rank * sizeof *box);
  return CUDA_SUCCESS;
}

CUresult fake_cuFuncLoad(CUfunction function) {
  RECORD("cuFuncLoad");
  return function->module->context == fake_current() ? CUDA_SUCCESS : INVALID_CONTEXT;
}

CUresult fake_cuFuncGetAttribute(int *value, CUfunction_attribute attribute, CUfunction function) {
  (void)function;
  RECORD("cuFuncGetAttribute");
  *value = attribute == CU_FUNC_ATTRIBUTE_PTX_VERSION ? fake.ptx_version : 0;
  return CUDA_SUCCESS;
}

CUresult fake_cuFuncSetAttribute(CUfunction function, CUfunction_attribute attribute, int value) {
  RECORD("cuFuncSetAttribute");
  const CUcontext context = function->module->context;
  if (attribute != CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES)
    return CUDA_SUCCESS;
  REQUIRE(value <= fake.devices[context->device].shared_per_cta, INVALID_VALUE);
  function->max_shared = value;
  return CUDA_SUCCESS;
}

CUresult fake_cuOccupancyMaxActiveBlocksPerMultiprocessor(int *ctas, CUfunction function, int threads,
                                                          size_t shared_bytes) {
  (void)threads;
  RECORD("cuOccupancyMaxActiveBlocksPerMultiprocessor");
  const int shared_per_sm = fake.devices[function->module->context->device].shared_per_sm;
  const int that_fit = shared_per_sm / ((int)shared_bytes + 1024);
  *ctas = that_fit < fake.ctas_per_sm ? that_fit : fake.ctas_per_sm;
  return CUDA_SUCCESS;
}

/* ---- Launches ------------------------------------------------------------------------------------- */

static CUresult launch(const fake_launch *l, CUfunction function, void **parameters) {
  REQUIRE(function->module->context == fake_current(), INVALID_HANDLE);
  REQUIRE(l->grid > 0 && l->block > 0 && l->block <= 1024, INVALID_VALUE);
  REQUIRE((int)l->shared_bytes <= function->max_shared, INVALID_VALUE);
  fake_launch kept = *l;
  kept.name = function->name;
  kept.context = fake_current();
  if (strcmp(function->name, "fmlai_merge_parts") == 0)
    kept.args.merge = *(const fmlai_cuda_merge_args *)parameters[0];
  else if (strncmp(function->name, "fmlai_", 6) == 0)
    kept.args.decode = *(const fmlai_cuda_decode_args *)parameters[0];
  if (strcmp(function->name, "fmlai_check_values") == 0)
    **(fmlai_cuda_check_report **)parameters[1] = fake.report;
  if (l->stream != NULL && l->stream->graph != NULL)
    return fake_append(l->stream->graph, &kept);
  fake_run(&kept, parameters);
  return CUDA_SUCCESS;
}

void fake_run(const fake_launch *l, void **parameters) {
  pthread_mutex_lock(&lock);
  state.launches[state.num_launches++ % FAKE_LAUNCHES] = *l;
  pthread_mutex_unlock(&lock);
  if (fake.run != NULL)
    fake.run(l, parameters);
}

CUresult fake_cuLaunchKernel(CUfunction function, unsigned grid_x, unsigned grid_y, unsigned grid_z,
                             unsigned block_x, unsigned block_y, unsigned block_z, unsigned shared_bytes,
                             CUstream stream, void **parameters, void **extra) {
  RECORD("cuLaunchKernel");
  REQUIRE(grid_y == 1 && grid_z == 1 && block_y == 1 && block_z == 1 && extra == NULL, INVALID_VALUE);
  const fake_launch l = {.grid = grid_x, .block = block_x, .shared_bytes = shared_bytes, .stream = stream};
  return launch(&l, function, parameters);
}

CUresult fake_cuLaunchKernelEx(const CUlaunchConfig *config, CUfunction function, void **parameters,
                               void **extra) {
  RECORD("cuLaunchKernelEx");
  REQUIRE(config->gridDimY == 1 && config->gridDimZ == 1 && config->blockDimY == 1 && config->blockDimZ == 1 &&
              extra == NULL && config->numAttrs == 1,
          INVALID_VALUE);
  const fake_launch l = {.grid = config->gridDimX,
                         .block = config->blockDimX,
                         .shared_bytes = config->sharedMemBytes,
                         .stream = config->hStream,
                         .chained =
                             config->attrs->id == CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION &&
                             config->attrs->value.programmaticStreamSerializationAllowed == 1};
  return launch(&l, function, parameters);
}

/* ---- Streams -------------------------------------------------------------------------------------- */

CUresult fake_cuStreamCreate(CUstream *stream, unsigned flags) {
  RECORD("cuStreamCreate");
  REQUIRE(depth > 0, INVALID_CONTEXT);
  REQUIRE(flags == CU_STREAM_NON_BLOCKING, INVALID_VALUE);
  *stream = fake_allocate(sizeof **stream);
  REQUIRE(*stream != NULL, CUDA_ERROR_OUT_OF_MEMORY);
  **stream = (struct CUstream_st){0};
  count(&state.streams, 1);
  return CUDA_SUCCESS;
}

CUresult fake_cuStreamDestroy(CUstream stream) {
  RECORD("cuStreamDestroy");
  REQUIRE(depth > 0, INVALID_CONTEXT);
  REQUIRE(stream != NULL, INVALID_HANDLE);
  count(&state.streams, -1);
  fake_release(stream);
  return CUDA_SUCCESS;
}

CUresult fake_cuStreamSynchronize(CUstream stream) {
  (void)stream;
  RECORD("cuStreamSynchronize");
  return depth > 0 ? CUDA_SUCCESS : INVALID_CONTEXT;
}

CUresult fake_cuStreamIsCapturing(CUstream stream, int *status) {
  RECORD("cuStreamIsCapturing");
  REQUIRE(depth > 0, INVALID_CONTEXT);
  *status = stream != NULL && (stream->is_captured || stream->graph != NULL);
  return CUDA_SUCCESS;
}
