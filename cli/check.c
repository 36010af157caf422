/* flashmla check: every kernel of a device against the fp64 oracle, on extreme and on random cases, and on a
   GPU what concerns GPUs alone. */
#include "check_cases.h"
#include "common.h"
#include "gpu_properties.h"
#include "options.h"
#include "oracle.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char help[] =
    "Usage: flashmla check [OPTION]...\n"
    "\n"
    "Runs every kernel of a device on a table of extreme cases and on random ones,\n"
    "compares each result with an fp64 oracle, row by row, and looks for the same bits\n"
    "in a second run, with another number of threads, and alone instead of in a batch.\n"
    "On a GPU, cases are made to obey its rules or must be refused, and there are cases\n"
    "of what GPUs alone have: graphs, streams, memory far apart, other work beside.\n"
    "A line for each case that fails; the last line is 'N passed, N failed'.\n"
    "\n" DEVICE_OPTION_HELP "  --kernel K       only this kernel [every one that the device can run]\n"
    "  --seed S         the seed of the first random case; the next one's is S + 1 [1]\n"
    "  --cases N        random cases, beside the extreme ones [200]\n"
    "  --quick          only what is cheap, and nothing that needs kernels side by side:\n"
    "                   for compute-sanitizer\n"
    "  --jobs N         cases at a time, up to 64 [1; GPUs one for each CPU, up to 16]\n" THREADS_OPTION_HELP
        HELP_OPTION_HELP "\n"
    "Example: flashmla check --seed 1234 --cases 1\n" EXIT_CODES_HELP;

typedef struct check_options {
  fmla_config config;
  int64_t seed, num_random, jobs; /* jobs 0: by the device */
  bool quick, help;
} check_options;

enum { OPTION_SEED = OPTION_OF_VERB, OPTION_CASES, OPTION_QUICK, OPTION_JOBS };

static const struct option options[] = {
    DEVICE_OPTION,
    KERNEL_OPTION,
    THREADS_OPTION,
    {"seed", required_argument, NULL, OPTION_SEED},
    {"cases", required_argument, NULL, OPTION_CASES},
    {"quick", no_argument, NULL, OPTION_QUICK},
    {"jobs", required_argument, NULL, OPTION_JOBS},
    HELP_OPTION,
    {0},
};

static int parse_options(int argc, char **argv, check_options *o) {
  *o = (check_options){.config = FMLA_CONFIG_INIT, .seed = 1, .num_random = 200};
  int code = EXIT_OK;
  for (int option; code == EXIT_OK && (option = next_option(argc, argv, "", options)) != -1;)
    switch (option) {
    case OPTION_SEED:
      code = parse_int("--seed", optarg, 0, INT64_MAX / 2, &o->seed);
      break;
    case OPTION_CASES:
      code = parse_int("--cases", optarg, 0, 100000000, &o->num_random);
      break;
    case OPTION_QUICK:
      o->quick = true;
      break;
    case OPTION_JOBS:
      code = parse_int("--jobs", optarg, 1, 64, &o->jobs);
      break;
    case OPTION_HELP:
      o->help = true;
      return EXIT_OK;
    default:
      code = take_config_option(option, &o->config);
    }
  return code == EXIT_OK ? refuse_operands(argc, argv) : code;
}

/* ---- Cases -------------------------------------------------------------------------------------- */

typedef struct check {
  const check_options *options;
  int *extremes; /* [num_extremes]: those of the table that are run */
  int64_t num_extremes;
  int64_t num_cases; /* the extreme ones, then the random ones */
  bool *taken;       /* [num_cases]: by some kernel, or refused by a rule of GPUs */
  int64_t passed, failed;
  bool is_lost; /* the device: nothing more can be known */

  char device[32];    /* "cuda:0" */
  const char *kernel; /* the one that is being checked, and how many cases it did not take */
  int64_t not_taken, refused;
} check;

static bool is_gpu(const check *k) {
  return strncmp(k->device, "cuda:", strlen("cuda:")) == 0;
}

static verify_case case_at(const void *argument, int64_t index) {
  const check *k = argument;
  return index < k->num_extremes ? verify_extreme_case(k->extremes[index])
                                 : verify_random_case((uint64_t)(k->options->seed + index - k->num_extremes));
}

/* False without memory. */
static bool list_cases(check *k) {
  k->extremes = calloc((size_t)verify_num_extreme_cases(), sizeof *k->extremes);
  for (int i = 0; k->extremes != NULL && i < verify_num_extreme_cases(); i++) {
    const verify_case c = verify_extreme_case(i);
    if (!k->options->quick || verify_is_quick_case(&c))
      k->extremes[k->num_extremes++] = i;
  }
  k->num_cases = k->num_extremes + k->options->num_random;
  k->taken = calloc((size_t)k->num_cases, sizeof *k->taken);
  return k->extremes != NULL && k->taken != NULL;
}

static void show_progress(const char *kernel, int64_t done, int64_t all) {
  if (isatty(STDERR_FILENO))
    fprintf(stderr, done < all ? "\r%s: %" PRId64 " of %" PRId64 " cases" : "\r\033[K", kernel, done, all);
}

/* One line that says how to run the case again. */
static void report_failure(const verify_case *c, const char *kernel, const char *message) {
  char description[512];
  show_progress(kernel, 1, 1);
  verify_describe_case(c, description, sizeof description);
  if (c->name != NULL)
    printf("FAILED %s, extreme case '%s' (%s): %s\n", kernel, c->name, description, message);
  else
    printf("FAILED %s, --seed %" PRIu64 " --cases 1 (%s): %s\n", kernel, c->seed, description, message);
}

static bool has_sentence(verify_outcome outcome) {
  return outcome == VERIFY_FAILED || outcome == VERIFY_LOST || outcome == VERIFY_NO_MEMORY;
}

/* EXIT_CHECK_FAILED ends the kernel's cases: the device is lost. */
static int count_outcome(check *k, verify_outcome outcome) {
  k->passed += outcome == VERIFY_PASSED;
  k->failed += outcome == VERIFY_FAILED || outcome == VERIFY_LOST;
  k->not_taken += outcome == VERIFY_NOT_TAKEN;
  k->refused += outcome == VERIFY_REFUSED;
  k->is_lost = outcome == VERIFY_LOST;
  if (outcome == VERIFY_NO_MEMORY)
    return fail_memory();
  return k->is_lost ? EXIT_CHECK_FAILED : EXIT_OK;
}

static int take_result(void *argument, int64_t index, const case_result *result) {
  check *k = argument;
  show_progress(k->kernel, index, k->num_cases);
  k->taken[index] = k->taken[index] || result->outcome != VERIFY_NOT_TAKEN;
  if (has_sentence(result->outcome))
    report_failure(&result->c, k->kernel, result->message);
  return count_outcome(k, result->outcome);
}

static int choose_jobs(const check *k) {
  const long cpus = sysconf(_SC_NPROCESSORS_ONLN);
  const int usual = !is_gpu(k) || cpus < 1 ? 1 : cpus < 16 ? (int)cpus : 16;
  const int jobs = k->options->jobs > 0 ? (int)k->options->jobs : usual;
  verify_oracle_limit_threads(cpus / jobs < 1 ? 1 : (int)(cpus / jobs));
  return jobs;
}

/* ---- What concerns GPUs alone ------------------------------------------------------------------- */

static int check_gpu_properties(check *k, const fmla_config *config) {
  verify_gpu gpu;
  int code = verify_gpu_open(config, &gpu) ? EXIT_OK : fail(EXIT_ENVIRONMENT, "%s", gpu.message);
  if (k->options->quick) {
    verify_gpu_be_quick(&gpu);
    gpu.is_serial = true;
  }
  for (int i = 0; code == EXIT_OK && i < verify_num_gpu_properties(); i++) {
    const verify_outcome outcome = verify_run_gpu_property(&gpu, i);
    if (has_sentence(outcome))
      printf("FAILED %s, gpu: %s: %s\n", k->kernel, verify_gpu_property_name(i), gpu.message);
    if (outcome == VERIFY_NOT_TAKEN)
      printf("%s, gpu: %s: not run: %s\n", k->kernel, verify_gpu_property_name(i), gpu.message);
    code = count_outcome(k, outcome);
  }
  verify_gpu_close(&gpu);
  return code;
}

/* ---- Kernels ------------------------------------------------------------------------------------ */

static int check_kernel(check *k, const char *kernel) {
  fmla_config config = k->options->config;
  config.kernel = kernel;
  k->kernel = kernel;
  k->not_taken = k->refused = 0;
  const case_run run = {.config = &config,
                        .num_threads = choose_jobs(k),
                        .num_cases = k->num_cases,
                        .case_at = case_at,
                        .take = take_result,
                        .argument = k};
  int code = check_cases(&run);
  show_progress(kernel, 1, 1);
  if (code == EXIT_OK) {
    printf("%s: %" PRId64 " cases, %" PRId64 " of them not for this kernel", kernel, k->num_cases,
           k->not_taken);
    if (is_gpu(k))
      printf(", %" PRId64 " refused as documented", k->refused);
    printf("\n");
    fflush(stdout);
  }
  return code == EXIT_OK && is_gpu(k) ? check_gpu_properties(k, &config) : code;
}

/* The device that the options mean. */
static int find_device(const fmla_config *config, char device[32]) {
  fmla_config without_kernel = *config;
  without_kernel.kernel = NULL;
  fmla_context *context = NULL;
  fmla_context_info info = {.struct_size = sizeof info};
  int code = open_context(&without_kernel, &context);
  if (code == EXIT_OK && (code = fail_status(fmla_get_context_info(context, &info))) == EXIT_OK)
    memcpy(device, info.device, sizeof info.device);
  fmla_close(context);
  return code;
}

/* "cuda" for "cuda:0" */
static bool is_of_backend(const check *k, const char *backend) {
  const size_t length = strcspn(k->device, ":");
  return strlen(backend) == length && strncmp(k->device, backend, length) == 0;
}

static int check_kernels(check *k) {
  const char *only = k->options->config.kernel;
  int code = find_device(&k->options->config, k->device);
  int num_run = 0;
  for (int32_t i = 0; code == EXIT_OK && i < fmla_kernel_count(); i++) {
    fmla_kernel_info kernel = {.struct_size = sizeof kernel};
    code = fail_status(fmla_get_kernel_info(i, &kernel));
    if (code != EXIT_OK || !kernel.available || !is_of_backend(k, kernel.backend) ||
        (only != NULL && strcmp(kernel.name, only) != 0))
      continue;
    code = check_kernel(k, kernel.name);
    num_run++;
  }
  if (code == EXIT_OK && num_run == 0)
    code = fail(EXIT_ENVIRONMENT, "no kernel that was asked for runs on this machine's device '%s'", k->device);
  return k->is_lost ? EXIT_OK : code;
}

/* A case that no kernel of the device takes was not computed at all. */
static void report_untaken(check *k) {
  const verify_target target = {.is_gpu = is_gpu(k)};
  for (int64_t i = 0; k->options->config.kernel == NULL && !k->is_lost && i < k->num_cases; i++)
    if (!k->taken[i]) {
      const verify_case c = case_at(k, i), as_run = verify_case_for(&target, &c);
      report_failure(&as_run, "every kernel", "none takes the case");
      k->failed++;
    }
}

int cmd_check(int argc, char **argv) {
  check_options o;
  int code = parse_options(argc, argv, &o);
  if (code != EXIT_OK || o.help)
    return code != EXIT_OK ? code : print_help(help);
  check k = {.options = &o};
  code = list_cases(&k) ? check_kernels(&k) : fail_memory();
  if (code == EXIT_OK) {
    report_untaken(&k);
    printf("%" PRId64 " passed, %" PRId64 " failed\n", k.passed, k.failed);
    if (k.is_lost)
      code = fail(EXIT_CHECK_FAILED, "the device is lost: what was not checked by then is unknown");
    else if (k.failed > 0)
      code = fail(EXIT_CHECK_FAILED, "%" PRId64 " cases failed", k.failed);
  }
  free(k.extremes);
  free(k.taken);
  return code;
}
