/* flashmla bench: times decode steps of many shapes, each beside the floor that the machine itself sets. */
#include "bench_device.h"
#include "common.h"
#include "file.h"
#include "options.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char help[] =
    "Usage: flashmla bench [OPTION]...\n"
    "\n"
    "Times decode steps on random values and caches that no cache of the machine holds.\n"
    "Lists are separated by commas; there is one row for each combination. The floor\n"
    "of a row is the time that reading its bytes or computing its operations takes at\n"
    "least, by the ceilings measured in the same run. On a GPU steps are replayed as a\n"
    "graph, and the device's clock counts.\n"
    "\n"
    "  --batch LIST     sequences [4; GPUs 1,128]\n"
    "  --heads LIST     query heads [1,16,128; GPUs 16,64,128]\n"
    "  --sq LIST        query tokens of each sequence [1]\n"
    "  --seqlen LIST    tokens of each sequence in the cache [1024,8192; GPUs 4096,16384]\n"
    "  --page-size LIST tokens in a page [64]\n"
    "  --dtype LIST     types of q, cache and out: bf16, fp16 [bf16]\n"
    "  --varlen         lengths at random, from a half to one and a half of --seqlen [no]\n"
    "  --causal         query tokens see no later keys [no]\n"
    "  --batch-invariant  bits of a sequence do not depend on the batch [no]\n" DEVICE_OPTION_HELP
        KERNEL_OPTION_HELP THREADS_OPTION_HELP
    "  --json FILE      write the results to a file, too [no]\n" HELP_OPTION_HELP "\n"
    "Example: flashmla bench --heads 16,128 --seqlen 4096 --json rows.json\n" EXIT_CODES_HELP;

/* ---- Options ------------------------------------------------------------------------------------ */

typedef struct value_list {
  int32_t values[64];
  int count;
} value_list;

enum { BATCH, HEADS, SQ, SEQLEN, PAGE_SIZE, DTYPE, NUM_DIMENSIONS };
static const struct dimension {
  const char *option;
  int32_t most; /* 0: the values are types */
} dimensions[NUM_DIMENSIONS] = {
    [BATCH] = {"--batch", 1 << 16},   [HEADS] = {"--heads", FMLA_MAX_HEADS},  [SQ] = {"--sq", 1 << 10},
    [SEQLEN] = {"--seqlen", 1 << 28}, [PAGE_SIZE] = {"--page-size", 1 << 20}, [DTYPE] = {"--dtype", 0},
};

enum { OPTION_VARLEN = OPTION_OF_VERB, OPTION_CAUSAL, OPTION_BATCH_INVARIANT, OPTION_JSON, OPTION_LISTS };
static const struct option options[] = {
    {"batch", required_argument, NULL, OPTION_LISTS + BATCH},
    {"heads", required_argument, NULL, OPTION_LISTS + HEADS},
    {"sq", required_argument, NULL, OPTION_LISTS + SQ},
    {"seqlen", required_argument, NULL, OPTION_LISTS + SEQLEN},
    {"page-size", required_argument, NULL, OPTION_LISTS + PAGE_SIZE},
    {"dtype", required_argument, NULL, OPTION_LISTS + DTYPE},
    {"varlen", no_argument, NULL, OPTION_VARLEN},
    {"causal", no_argument, NULL, OPTION_CAUSAL},
    {"batch-invariant", no_argument, NULL, OPTION_BATCH_INVARIANT},
    DEVICE_OPTION,
    KERNEL_OPTION,
    THREADS_OPTION,
    {"json", required_argument, NULL, OPTION_JSON},
    HELP_OPTION,
    {0},
};

typedef struct bench_options {
  fmla_config config;
  value_list lists[NUM_DIMENSIONS];
  bool varlen, causal, batch_invariant, help;
  const char *json;
} bench_options;

static int parse_list(const struct dimension *dimension, const char *text, value_list *list) {
  enum { MOST = sizeof list->values / sizeof *list->values };
  list->count = 0;
  for (const char *item = text; item != NULL;) {
    const char *comma = strchr(item, ',');
    char word[32];
    snprintf(word, sizeof word, "%.*s", comma != NULL ? (int)(comma - item) : (int)strlen(item), item);
    if (list->count == MOST)
      return fail(EXIT_USAGE, "%s has more than %d values", dimension->option, MOST);
    int32_t *value = &list->values[list->count++];
    int64_t number = 0;
    const int code = dimension->most == 0 ? parse_dtype(dimension->option, word, false, value)
                                          : parse_int(dimension->option, word, 1, dimension->most, &number);
    if (code != EXIT_OK)
      return code;
    if (dimension->most != 0)
      *value = (int32_t)number;
    item = comma != NULL ? comma + 1 : NULL;
  }
  return EXIT_OK;
}

static int parse_options(int argc, char **argv, bench_options *o) {
  *o = (bench_options){.config = FMLA_CONFIG_INIT};
  int code = EXIT_OK;
  for (int option; code == EXIT_OK && (option = next_option(argc, argv, "", options)) != -1;)
    switch (option) {
    case OPTION_VARLEN:
      o->varlen = true;
      break;
    case OPTION_CAUSAL:
      o->causal = true;
      break;
    case OPTION_BATCH_INVARIANT:
      o->batch_invariant = true;
      break;
    case OPTION_JSON:
      o->json = optarg;
      break;
    case OPTION_HELP:
      o->help = true;
      return EXIT_OK;
    default:
      code = option >= OPTION_LISTS
                 ? parse_list(&dimensions[option - OPTION_LISTS], optarg, &o->lists[option - OPTION_LISTS])
                 : take_config_option(option, &o->config);
    }
  return code == EXIT_OK ? refuse_operands(argc, argv) : code;
}

/* For the lists that were not given: steps that a CPU, or a GPU, times within half a minute. */
static void set_default_lists(bool is_gpu, bench_options *o) {
  static const value_list common[NUM_DIMENSIONS] = {
      [SQ] = {{1}, 1}, [PAGE_SIZE] = {{64}, 1}, [DTYPE] = {{FMLA_DTYPE_BF16}, 1}};
  static const value_list cpu[NUM_DIMENSIONS] = {
      [BATCH] = {{4}, 1}, [HEADS] = {{1, 16, 128}, 3}, [SEQLEN] = {{1024, 8192}, 2}};
  static const value_list gpu[NUM_DIMENSIONS] = {
      [BATCH] = {{1, 128}, 2}, [HEADS] = {{16, 64, 128}, 3}, [SEQLEN] = {{4096, 16384}, 2}};
  const value_list *by_device = is_gpu ? gpu : cpu;
  for (int d = 0; d < NUM_DIMENSIONS; d++)
    if (o->lists[d].count == 0)
      o->lists[d] = common[d].count > 0 ? common[d] : by_device[d];
}

/* ---- Rows --------------------------------------------------------------------------------------- */

static int64_t count_rows(const bench_options *o) {
  int64_t rows = 1;
  for (int d = 0; d < NUM_DIMENSIONS; d++)
    rows *= o->lists[d].count;
  return rows;
}

/* Row `index` of the product of the lists; the last dimension of the table changes fastest. */
static bench_shape shape_of_row(const bench_options *o, int64_t index) {
  static const int order[NUM_DIMENSIONS] = {SEQLEN, HEADS, SQ, BATCH, PAGE_SIZE, DTYPE};
  int32_t values[NUM_DIMENSIONS];
  for (int i = 0; i < NUM_DIMENSIONS; i++) {
    const value_list *list = &o->lists[order[i]];
    values[order[i]] = list->values[index % list->count];
    index /= list->count;
  }
  return (bench_shape){.batch = values[BATCH],
                       .heads = values[HEADS],
                       .seqlen_q = values[SQ],
                       .seqlen = values[SEQLEN],
                       .page_size = values[PAGE_SIZE],
                       .dtype = values[DTYPE],
                       .varlen = o->varlen,
                       .causal = o->causal,
                       .batch_invariant = o->batch_invariant};
}

static const char *bound_name(const bench_floor *floor) {
  return floor->memory_bound ? "memory" : "compute";
}

static void print_head(const bench_device *device) {
  bench_device_print(device);
  printf("%5s %5s %4s %7s %5s %5s %11s %7s %8s %8s %6s  %-8s%s\n", "batch", "heads", "sq", "seqlen", "page",
         "dtype", "us", "+-", "TFLOPS", "GB/s", "floor", "bound", "kernel");
  fflush(stdout);
}

static void print_row(const bench_shape *s, const bench_row *row, const bench_floor *floor) {
  const double time = row->time.median;
  printf("%5d %5d %4d %7d %5d %5s %11.1f %6.1f%% %8.4f %8.2f %5.1f%%  %-8s%s\n", s->batch, s->heads,
         s->seqlen_q, s->seqlen, s->page_size, dtype_name(s->dtype), 1e6 * time, 100 * row->time.spread / time,
         1e-12 * row->cost.operations / time, 1e-9 * row->cost.bytes / time, 100 * floor->seconds / time,
         bound_name(floor), row->kernel);
  fflush(stdout);
}

/* One line that overwrites itself, for people who watch. */
static void show_progress(int64_t row, int64_t num_rows) {
  if (isatty(STDERR_FILENO))
    fprintf(stderr, "\r\033[K");
  if (isatty(STDERR_FILENO) && row < num_rows)
    fprintf(stderr, "measuring row %" PRId64 " of %" PRId64, row + 1, num_rows);
}

/* ---- JSON --------------------------------------------------------------------------------------- */

static json_t *describe_row(const bench_shape *s, const bench_row *row, const bench_floor *floor) {
  const double time = row->time.median;
  return json_pack("{s:i, s:i, s:i, s:i, s:i, s:s, s:b, s:b, s:b, s:s, s:f, s:f, s:f, s:i, s:f, s:f, s:f, s:s}",
                   "batch", s->batch, "heads", s->heads, "sq", s->seqlen_q, "seqlen", s->seqlen, "page_size",
                   s->page_size, "dtype", dtype_name(s->dtype), "varlen", s->varlen, "causal", s->causal,
                   "batch_invariant", s->batch_invariant, "kernel", row->kernel, "us", 1e6 * time, "us_spread",
                   1e6 * row->time.spread, "us_fastest", 1e6 * row->time.fastest, "runs", row->time.runs,
                   "tflops", 1e-12 * row->cost.operations / time, "gb_per_s", 1e-9 * row->cost.bytes / time,
                   "share_of_floor", floor->seconds / time, "bound", bound_name(floor));
}

/* NULL when memory ran out. */
static json_t *describe_run(int argc, char **argv, const bench_device *device) {
  json_t *command = json_array();
  for (int i = 0; i < argc; i++)
    json_array_append_new(command, json_string(argv[i]));
  json_t *run = json_pack("{s:s, s:o}", "version", fmla_version_string(), "command", command);
  json_t *described = bench_device_describe(device);
  const bool complete = run != NULL && described != NULL && json_object_update(run, described) == 0 &&
                        json_object_set_new(run, "rows", json_array()) == 0;
  json_decref(described);
  if (complete)
    return run;
  json_decref(run);
  return NULL;
}

static int save(const char *path, const json_t *results) {
  char *text = json_dumps(results, JSON_INDENT(2) | JSON_REAL_PRECISION(6));
  if (text == NULL)
    return fail_memory();
  const file_part parts[] = {{text, strlen(text)}, {"\n", 1}};
  const int code = file_write(path, parts, 2);
  free(text);
  return code;
}

/* ---- The verb ----------------------------------------------------------------------------------- */

static int measure_rows(bench_device *device, const bench_options *o, json_t *rows) {
  const int64_t num_rows = count_rows(o);
  int code = EXIT_OK;
  for (int64_t i = 0; i < num_rows && code == EXIT_OK; i++) {
    const bench_shape shape = shape_of_row(o, i);
    bench_row row;
    show_progress(i, num_rows);
    code = bench_device_measure_row(device, &shape, &row);
    show_progress(num_rows, num_rows);
    if (code != EXIT_OK)
      break;
    const bench_floor floor = bench_device_floor(device, shape.dtype, &row.cost);
    print_row(&shape, &row, &floor);
    if (json_array_append_new(rows, describe_row(&shape, &row, &floor)) != 0)
      code = fail_memory();
  }
  return code;
}

static int measure(int argc, char **argv, bench_device *device, const bench_options *o) {
  int code = bench_device_measure_ceilings(device);
  if (code != EXIT_OK)
    return code;
  json_t *results = describe_run(argc, argv, device);
  if (results == NULL)
    return fail_memory();
  print_head(device);
  code = measure_rows(device, o, json_object_get(results, "rows"));
  if (code == EXIT_OK && o->json != NULL)
    code = save(o->json, results);
  json_decref(results);
  return code;
}

int cmd_bench(int argc, char **argv) {
  bench_options o;
  int code = parse_options(argc, argv, &o);
  if (code != EXIT_OK || o.help)
    return code != EXIT_OK ? code : print_help(help);
  bench_device device;
  if ((code = bench_device_open(&o.config, &device)) == EXIT_OK) {
    set_default_lists(device.is_gpu, &o);
    code = measure(argc, argv, &device, &o);
  }
  bench_device_close(&device);
  return code;
}
