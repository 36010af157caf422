/*
 * support.c: stand-ins and judgements.
 *
 * SPDX-License-Identifier: MIT
 */
#include "support.h"

#include "cuda/image.h"
#include "cuda/kernels/variants.h"

#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- The device code of these tests, one image a file of kernels
 * -------------------------------------------------- */

#define X(rows, tile_keys, warps, max_head_dim_v)                                                              \
  "fmlai_decode_portable_bf16_rows" #rows " fmlai_decode_portable_fp16_rows" #rows " "
static const char decode_image[] = FMLAI_CUDA_PORTABLE_VARIANTS(X);
#undef X
#define X(rows, ...) "fmlai_decode_hopper_bf16_rows" #rows " fmlai_decode_hopper_fp16_rows" #rows " "
static const char hopper_image[] = FMLAI_CUDA_HOPPER_VARIANTS(X);
static const char hopper_few_image[] = FMLAI_CUDA_HOPPER_FEW_VARIANTS(X);
#undef X
static const char merge_image[] = "fmlai_merge_splits fmlai_merge_parts ";
static const char check_image[] = "fmlai_check_values ";

/* Taken in place of the library's own, which may have none. */
const fmlai_cuda_image_set fmlai_cuda_images = {
    .toolkit = 13000,
    .num_images = FMLAI_CUDA_MAX_IMAGES,
    .images = {decode_image, hopper_image, hopper_few_image, merge_image, check_image}};

void use_fake_driver(void) {
  setenv("FMLA_CUDA_DRIVER", FAKE_CUDA_PATH, 1);
}

/* ---- Calls ------------------------------------------------------------------------------------------- */

fmla_context *open_device(const char *device, const char *kernel) {
  fmla_config config = FMLA_CONFIG_INIT;
  config.device = device;
  config.kernel = kernel;
  fmla_context *context = NULL;
  if (fmla_open(&config, &context) != FMLA_OK)
    fail_msg("fmla_open: %s", fmla_last_error());
  return context;
}

/* Where a tensor might lie; nobody looks there. */
static void *fake_address(int tensor) {
  static _Alignas(256) char tensors[10][256];
  return tensors[tensor];
}

fmla_decode_params valid_step(void) {
  fmla_decode_params p = FMLA_DECODE_PARAMS_INIT;
  p.batch_size = 4;
  p.num_q_heads = 16;
  p.num_pages = 100;
  p.max_pages_per_seq = 32;
  p.softmax_scale = 0.125f;
  p.q = fake_address(0);
  p.kv_cache = fake_address(1);
  p.block_table = fake_address(2);
  p.cache_seqlens = fake_address(3);
  p.out = fake_address(4);
  p.lse = fake_address(5);
  return p;
}

fmla_merge_params valid_merge(void) {
  fmla_merge_params p = FMLA_MERGE_PARAMS_INIT;
  p.num_parts = 3;
  p.batch_size = 2;
  p.seqlen_q = 5;
  p.num_q_heads = 16;
  p.out_parts = fake_address(6);
  p.lse_parts = fake_address(7);
  p.out = fake_address(8);
  p.lse = fake_address(9);
  return p;
}

/* ---- Judgements -------------------------------------------------------------------------------------- */

void assert_fails(fmla_status got, fmla_status expected, const char *words) {
  if (got != expected)
    fail_msg("%s instead of %s: %s", fmla_status_name(got), fmla_status_name(expected), fmla_last_error());
  if (strstr(fmla_last_error(), words) == NULL)
    fail_msg("\"%s\" lacks \"%s\"", fmla_last_error(), words);
}

const CUresult results[NUM_RESULTS] = {CUDA_ERROR_OUT_OF_MEMORY, CUDA_ERROR_ILLEGAL_ADDRESS, 12345};

void assert_driver_failure(fmla_status got, CUresult result) {
  char start[96];
  snprintf(start, sizeof start, "%s failed: ", fake_failed_call());
  if (result == CUDA_ERROR_OUT_OF_MEMORY) {
    assert_fails(got, FMLA_ERROR_OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY (the fake driver's words)");
  } else if (result == CUDA_ERROR_ILLEGAL_ADDRESS) {
    assert_fails(got, FMLA_ERROR_DEVICE_LOST, "CUDA_ERROR_ILLEGAL_ADDRESS (the fake driver's words)");
    assert_fails(got, FMLA_ERROR_DEVICE_LOST, "cannot be used any more");
  } else {
    assert_fails(got, FMLA_ERROR_DEVICE, "error 12345 (");
  }
  if (strncmp(fmla_last_error(), start, strlen(start)) != 0)
    fail_msg("\"%s\" does not start with \"%s\"", fmla_last_error(), start);
}

void assert_balanced(const fake_balance *before) {
  const fake_balance now = fake_now();
  const char *failed = fake_failed_call() != NULL ? fake_failed_call() : "";
  assert_int_equal(now.depth, before->depth + (strcmp(failed, "cuCtxPopCurrent") == 0));
  assert_int_equal(now.retained, before->retained + (strcmp(failed, "cuDevicePrimaryCtxRelease") == 0));
  assert_int_equal(now.modules, before->modules + (strcmp(failed, "cuModuleUnload") == 0));
  assert_int_equal(now.allocations, before->allocations);
  assert_int_equal(now.streams, before->streams);
  assert_int_equal(now.events, before->events);
  assert_int_equal(now.graphs, before->graphs);
}

void assert_calls(const char *const *names, int count) {
  for (int i = 0; i < count && i < fake_num_calls(); i++)
    assert_string_equal(fake_call(i), names[i]);
  assert_int_equal(fake_num_calls(), count);
}

/* ---- Processes --------------------------------------------------------------------------------------- */

void in_child(bool (*test)(const void *argument), const void *argument) {
  fflush(NULL);
  const pid_t child = fork();
  assert_true(child >= 0);
  if (child == 0)
    _exit(test(argument) ? 0 : 1);
  int status = -1;
  assert_int_equal(waitpid(child, &status, 0), child);
  assert_int_equal(status, 0);
}

bool is_failure(fmla_status got, fmla_status expected, const char *words) {
  const bool is = got == expected && strstr(fmla_last_error(), words) != NULL;
  if (!is)
    fprintf(stderr, "%s: \"%s\" instead of %s with \"%s\"\n", fmla_status_name(got), fmla_last_error(),
            fmla_status_name(expected), words);
  return is;
}
