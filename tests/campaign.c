/*
 * campaign.c: many random cases, each through the API (verify_run_case) and, as far as a file can say it,
 * through `flashmla decode`, whose result must have the same bits.
 *
 * Usage: flashmla-campaign [--seed S] [--cases N] FLASHMLA_BINARY
 *
 * SPDX-License-Identifier: MIT
 */
#include "device.h"
#include "number.h"
#include "run_case.h"
#include "step.h"

#include <getopt.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- Files -------------------------------------------------------------------------------------- */

enum { MAX_TENSORS = 7, HEADER_BYTES = 4096 };

typedef struct tensor_file {
  char header[HEADER_BYTES]; /* JSON, not yet closed */
  size_t used;
  struct {
    const void *data;
    size_t bytes;
    bool widen; /* 16-bit elements, which the file has as F32 */
  } tensors[MAX_TENSORS];
  int num_tensors;
  size_t data_bytes;
  int32_t dtype; /* of 16-bit elements */
} tensor_file;

__attribute__((format(printf, 2, 3))) static void append(tensor_file *file, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  file->used += (size_t)vsnprintf(file->header + file->used, HEADER_BYTES - file->used, format, arguments);
  va_end(arguments);
}

/* `dims` ends with -1. */
static void add_tensor(tensor_file *file, const char *name, const char *type, const int64_t *dims,
                       const verify_tensor *tensor, bool widen) {
  size_t bytes = tensor->bytes * (widen ? 2 : 1);
  append(file, ",\"%s\":{\"dtype\":\"%s\",\"shape\":[", name, widen ? "F32" : type);
  for (int i = 0; dims[i] >= 0; i++)
    append(file, "%s%" PRId64, i > 0 ? "," : "", dims[i]);
  append(file, "],\"data_offsets\":[%zu,%zu]}", file->data_bytes, file->data_bytes + bytes);
  file->tensors[file->num_tensors].data = tensor->data;
  file->tensors[file->num_tensors].bytes = tensor->bytes;
  file->tensors[file->num_tensors++].widen = widen;
  file->data_bytes += bytes;
}

static void describe_step(tensor_file *file, const verify_step *step, bool widen) {
  const fmla_decode_params *p = &step->params;
  const verify_tensor *t = step->tensors;
  const char *half = p->q_dtype == FMLA_DTYPE_BF16 ? "BF16" : "F16";
  bool varlen = p->cu_seqlens_q != NULL, apart = p->q_rope != NULL;
  int64_t latent = p->head_dim_k - (apart ? p->head_dim_rope : 0);
  int64_t q[] = {p->batch_size, varlen ? p->total_q : p->max_seqlen_q, p->num_q_heads, latent, -1};
  int64_t q_rope[] = {q[0], q[1], q[2], p->head_dim_rope, -1};
  int64_t kv[] = {p->num_pages, p->page_size, p->num_kv_heads, p->head_dim_k, -1};
  int64_t kv_of_one_head[] = {kv[0], kv[1], kv[3], -1};

  file->dtype = p->q_dtype;
  append(file,
         "{\"__metadata__\":{\"head_dim_v\":\"%" PRId32 "\",\"softmax_scale\":\"%.9g\",\"causal\":\"%d\"}",
         p->head_dim_v, (double)p->softmax_scale, (p->flags & FMLA_CAUSAL) != 0);
  add_tensor(file, apart ? "q_nope" : "q", half, q + varlen, &t[VERIFY_Q], widen);
  if (apart)
    add_tensor(file, "q_rope", half, q_rope + varlen, &t[VERIFY_Q_ROPE], widen);
  add_tensor(file, "kv_cache", half, p->num_kv_heads == 1 ? kv_of_one_head : kv, &t[VERIFY_KV_CACHE], widen);
  add_tensor(file, "block_table", "I32", (const int64_t[]){p->batch_size, p->max_pages_per_seq, -1},
             &t[VERIFY_BLOCK_TABLE], false);
  add_tensor(file, "cache_seqlens", "I32", (const int64_t[]){p->batch_size, -1}, &t[VERIFY_CACHE_SEQLENS],
             false);
  if (varlen)
    add_tensor(file, "cu_seqlens_q", "I32", (const int64_t[]){(int64_t)p->batch_size + 1, -1},
               &t[VERIFY_CU_SEQLENS_Q], false);
  if (p->sink != NULL)
    add_tensor(file, "sink", "F32", (const int64_t[]){p->num_q_heads, -1}, &t[VERIFY_SINK], false);
  append(file, "}");
}

static void write_length(FILE *to, uint64_t length) {
  for (int i = 0; i < 8; i++)
    fputc((int)(length >> 8 * i & 0xff), to);
}

static bool write_file(const char *path, const tensor_file *file) {
  FILE *to = fopen(path, "wb");
  if (to == NULL)
    return false;
  write_length(to, file->used);
  fwrite(file->header, 1, file->used, to);
  for (int i = 0; i < file->num_tensors; i++) {
    if (!file->tensors[i].widen)
      fwrite(file->tensors[i].data, 1, file->tensors[i].bytes, to);
    for (size_t k = 0; file->tensors[i].widen && k < file->tensors[i].bytes / 2; k++) {
      float value = (float)verify_load(file->dtype, file->tensors[i].data, (int64_t)k);
      fwrite(&value, sizeof value, 1, to);
    }
  }
  bool good = ferror(to) == 0;
  return fclose(to) == 0 && good;
}

/* The whole file, ended by a 0; NULL if it cannot be had. */
static char *read_file(const char *path, size_t *bytes) {
  FILE *from = fopen(path, "rb");
  if (from == NULL)
    return NULL;
  fseek(from, 0, SEEK_END);
  long size = ftell(from);
  rewind(from);
  *bytes = size > 0 ? (size_t)size : 0;
  char *data = calloc(*bytes + 1, 1);
  if (data != NULL && fread(data, 1, *bytes, from) != *bytes) {
    free(data);
    data = NULL;
  }
  fclose(from);
  return data;
}

/* Whether tensor `name` (with its quotes) of a file in memory has these bytes. */
static bool holds(const char *file, size_t file_bytes, const char *name, const verify_tensor *expected) {
  uint64_t header = 0;
  for (int i = 0; i < 8 && file_bytes > 8; i++)
    header |= (uint64_t)(unsigned char)file[i] << 8 * i;
  const char *entry = header == 0 || header > file_bytes - 8 ? NULL : strstr(file + 8, name);
  const char *offsets = entry == NULL ? NULL : strstr(entry, "data_offsets");
  if (offsets == NULL)
    return false;
  char *end;
  offsets += strcspn(offsets, "0123456789");
  size_t first = strtoul(offsets, &end, 10);
  size_t last = strtoul(end + strcspn(end, "0123456789"), NULL, 10);
  if (last < first || last > file_bytes - 8 - header || last - first != expected->bytes)
    return false;
  return expected->bytes == 0 || memcmp(file + 8 + header + first, expected->data, expected->bytes) == 0;
}

/* ---- Through the program ------------------------------------------------------------------------ */

typedef struct campaign {
  const char *binary;
  char in[256], out[256]; /* paths */
  verify_target target;
} campaign;

static const char *type_option(int32_t dtype) {
  return dtype == FMLA_DTYPE_BF16 ? "bf16" : dtype == FMLA_DTYPE_FP16 ? "fp16" : "fp32";
}

/* The exit status of `flashmla decode`, -1 if it did not exit. */
static int run_program(const campaign *k, const fmla_decode_params *p, bool widen) {
  pid_t child = fork();
  if (child == 0) {
    if (freopen("/dev/null", "w", stdout) == NULL)
      _exit(127);
    execl(k->binary, k->binary, "decode", k->in, "-o", k->out, "--check", "--out-dtype",
          type_option(p->out_dtype), widen ? "--dtype" : (char *)NULL, type_option(p->q_dtype), (char *)NULL);
    _exit(127);
  }
  int status = 0;
  if (child < 0 || waitpid(child, &status, 0) != child || !WIFEXITED(status))
    return -1;
  return WEXITSTATUS(status);
}

/* What the case becomes where a file cannot say it. */
static verify_case without_what_files_lack(verify_case c) {
  c.strides = VERIFY_STRIDES_PACKED;
  c.flags &= FMLA_CAUSAL;
  c.no_lse = false;
  return c;
}

/* The bounds that the program takes from a file, so that both make the very same call. */
static void take_bounds_of_file(fmla_decode_params *p) {
  p->max_seqlen_k = 0;
  for (int32_t i = 0, longest = 0; p->cu_seqlens_q != NULL && i < p->batch_size; i++) {
    int32_t queries = p->cu_seqlens_q[i + 1] - p->cu_seqlens_q[i];
    p->max_seqlen_q = longest = queries > longest ? queries : longest;
  }
}

static verify_outcome compare_program(const campaign *k, verify_step *step, bool widen, char *message,
                                      size_t bytes) {
  tensor_file file = {.used = 0};
  take_bounds_of_file(&step->params);
  describe_step(&file, step, widen);
  if (!write_file(k->in, &file))
    return VERIFY_NO_MEMORY;
  fmla_status status = verify_device_decode(k->target.context, step, VERIFY_WORKSPACE_NAN);
  int code = run_program(k, &step->params, widen);
  size_t result_bytes = 0;
  char *result = read_file(k->out, &result_bytes);
  verify_outcome outcome = VERIFY_FAILED;
  if (status != FMLA_OK)
    snprintf(message, bytes, "fmla_decode: %s", fmla_last_error());
  else if (code != 0)
    snprintf(message, bytes, "flashmla decode ended with %d", code);
  else if (result == NULL)
    snprintf(message, bytes, "flashmla decode left no file");
  else if (!holds(result, result_bytes, "\"out\"", &step->tensors[VERIFY_OUT]))
    snprintf(message, bytes, "flashmla decode wrote another out than fmla_decode");
  else if (!holds(result, result_bytes, "\"lse\"", &step->tensors[VERIFY_LSE]))
    snprintf(message, bytes, "flashmla decode wrote another lse than fmla_decode");
  else
    outcome = VERIFY_PASSED;
  free(result);
  unlink(k->out);
  return outcome;
}

static verify_outcome run_through_program(const campaign *k, const verify_case *c, char *message,
                                          size_t bytes) {
  verify_case plain = without_what_files_lack(*c);
  bool widen = c->seed % 4 == 0;
  verify_step step;
  if (verify_step_build(&plain, &step) != 0)
    return VERIFY_NO_MEMORY;
  verify_outcome outcome = compare_program(k, &step, widen, message, bytes);
  verify_step_free(&step);
  return outcome;
}

/* ---- The campaign ------------------------------------------------------------------------------- */

static int run_campaign(const campaign *k, uint64_t seed, uint64_t num_cases) {
  uint64_t passed = 0, failed = 0;
  for (uint64_t i = 0; i < num_cases; i++) {
    char message[512] = "memory or disk ran out", description[512];
    verify_case c = verify_random_case(seed + i);
    verify_outcome outcome = verify_run_case(&k->target, &c, message, sizeof message);
    if (outcome == VERIFY_PASSED)
      outcome = run_through_program(k, &c, message, sizeof message);
    passed += outcome == VERIFY_PASSED;
    failed += outcome != VERIFY_PASSED;
    if (outcome != VERIFY_PASSED)
      printf("FAILED --seed %" PRIu64 " --cases 1 (%s): %s\n", c.seed,
             verify_describe_case(&c, description, sizeof description), message);
    if (isatty(STDERR_FILENO))
      fprintf(stderr, i + 1 < num_cases ? "\r%" PRIu64 " of %" PRIu64 : "\r\033[K", i + 1, num_cases);
  }
  printf("%" PRIu64 " passed, %" PRIu64 " failed\n", passed, failed);
  return failed == 0 ? 0 : 1;
}

int main(int argc, char **argv) {
  static const struct option options[] = {
      {"seed", required_argument, NULL, 's'}, {"cases", required_argument, NULL, 'c'}, {0}};
  uint64_t seed = 1, num_cases = 200;
  for (int option; (option = getopt_long(argc, argv, "", options, NULL)) != -1;)
    if (option == 's')
      seed = strtoull(optarg, NULL, 10);
    else if (option == 'c')
      num_cases = strtoull(optarg, NULL, 10);
    else
      return 2;
  if (optind + 1 != argc) {
    fprintf(stderr, "usage: %s [--seed S] [--cases N] FLASHMLA_BINARY\n", argv[0]);
    return 2;
  }
  const char *base = getenv("TMPDIR");
  char folder[200];
  snprintf(folder, sizeof folder, "%s/flashmla-campaign-XXXXXX", base != NULL ? base : P_tmpdir);
  campaign k = {.binary = argv[optind]};
  fmla_config config = FMLA_CONFIG_INIT;
  if (mkdtemp(folder) == NULL || verify_target_open(&config, &k.target) != FMLA_OK) {
    fprintf(stderr, "%s: no temporary folder, or no device: %s\n", argv[0], fmla_last_error());
    return 4;
  }
  snprintf(k.in, sizeof k.in, "%s/in.safetensors", folder);
  snprintf(k.out, sizeof k.out, "%s/out.safetensors", folder);
  int code = run_campaign(&k, seed, num_cases);
  verify_target_close(&k.target);
  unlink(k.in);
  rmdir(folder);
  return code;
}
