/* flashmla check: every kernel of a device against the fp64 oracle, on extreme and on random cases. */
#include "cases.h"
#include "common.h"
#include "options.h"
#include "run_case.h"

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
    "A line for each case that fails; the last line is 'N passed, N failed'.\n"
    "\n" DEVICE_OPTION_HELP "  --kernel K       only this kernel [every one that the device can run]\n"
    "  --seed S         the seed of the first random case; the next one's is S + 1 [1]\n"
    "  --cases N        random cases, beside the extreme ones [200]\n" THREADS_OPTION_HELP HELP_OPTION_HELP "\n"
    "Example: flashmla check --seed 1234 --cases 1\n" EXIT_CODES_HELP;

typedef struct check_options {
  fmla_config config;
  int64_t seed, num_random;
  bool help;
} check_options;

enum { OPTION_SEED = OPTION_OF_VERB, OPTION_CASES };

static const struct option options[] = {
    DEVICE_OPTION,
    KERNEL_OPTION,
    THREADS_OPTION,
    {"seed", required_argument, NULL, OPTION_SEED},
    {"cases", required_argument, NULL, OPTION_CASES},
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
  int64_t num_cases; /* the extreme ones, then the random ones */
  bool *taken;       /* [num_cases]: by some kernel */
  int64_t passed, failed;
} check;

static verify_case case_at(const check *k, int64_t index) {
  const int num_extreme = verify_num_extreme_cases();
  return index < num_extreme ? verify_extreme_case((int)index)
                             : verify_random_case((uint64_t)(k->options->seed + index - num_extreme));
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

static int check_kernel(check *k, const fmla_kernel_info *kernel) {
  fmla_config config = k->options->config;
  config.kernel = kernel->name;
  verify_target target;
  int code = fail_status(verify_target_open(&config, &target));
  if (code != EXIT_OK)
    return code;
  int64_t not_taken = 0;
  for (int64_t i = 0; code == EXIT_OK && i < k->num_cases; i++) {
    show_progress(kernel->name, i, k->num_cases);
    const verify_case c = case_at(k, i);
    char message[512];
    const verify_outcome outcome = verify_run_case(&target, &c, message, sizeof message);
    k->passed += outcome == VERIFY_PASSED;
    k->failed += outcome == VERIFY_FAILED;
    not_taken += outcome == VERIFY_NOT_TAKEN;
    k->taken[i] = k->taken[i] || outcome != VERIFY_NOT_TAKEN;
    if (outcome == VERIFY_FAILED)
      report_failure(&c, kernel->name, message);
    else if (outcome == VERIFY_NO_MEMORY)
      code = fail_memory();
  }
  show_progress(kernel->name, 1, 1);
  verify_target_close(&target);
  if (code == EXIT_OK)
    printf("%s: %" PRId64 " cases, %" PRId64 " of them not for this kernel\n", kernel->name, k->num_cases,
           not_taken);
  return code;
}

/* ---- Kernels ------------------------------------------------------------------------------------ */

/* The backend of the device: "cuda" for "cuda:0". */
static int find_backend(const fmla_config *config, char *backend, size_t bytes) {
  fmla_config without_kernel = *config;
  without_kernel.kernel = NULL;
  fmla_context *context = NULL;
  fmla_context_info info = {.struct_size = sizeof info};
  int code = open_context(&without_kernel, &context);
  if (code == EXIT_OK && (code = fail_status(fmla_get_context_info(context, &info))) == EXIT_OK)
    snprintf(backend, bytes, "%.*s", (int)strcspn(info.device, ":"), info.device);
  fmla_close(context);
  return code;
}

static int check_kernels(check *k) {
  const char *only = k->options->config.kernel;
  char backend[32];
  int code = find_backend(&k->options->config, backend, sizeof backend);
  int num_run = 0;
  for (int32_t i = 0; code == EXIT_OK && i < fmla_kernel_count(); i++) {
    fmla_kernel_info kernel = {.struct_size = sizeof kernel};
    code = fail_status(fmla_get_kernel_info(i, &kernel));
    if (code != EXIT_OK || !kernel.available || strcmp(kernel.backend, backend) != 0 ||
        (only != NULL && strcmp(kernel.name, only) != 0))
      continue;
    code = check_kernel(k, &kernel);
    num_run++;
  }
  if (code == EXIT_OK && num_run == 0)
    code = fail(EXIT_ENVIRONMENT, "no kernel that was asked for runs on this machine's device '%s'", backend);
  return code;
}

/* A case that no kernel of the device takes was not computed at all. */
static void report_untaken(check *k) {
  for (int64_t i = 0; k->options->config.kernel == NULL && i < k->num_cases; i++)
    if (!k->taken[i]) {
      const verify_case c = case_at(k, i);
      report_failure(&c, "every kernel", "none takes the case");
      k->failed++;
    }
}

int cmd_check(int argc, char **argv) {
  check_options o;
  int code = parse_options(argc, argv, &o);
  if (code != EXIT_OK || o.help)
    return code != EXIT_OK ? code : print_help(help);
  check k = {.options = &o, .num_cases = verify_num_extreme_cases() + o.num_random};
  k.taken = calloc((size_t)k.num_cases, sizeof *k.taken);
  code = k.taken == NULL ? fail_memory() : check_kernels(&k);
  if (code == EXIT_OK) {
    report_untaken(&k);
    printf("%" PRId64 " passed, %" PRId64 " failed\n", k.passed, k.failed);
    if (k.failed > 0)
      code = fail(EXIT_CHECK_FAILED, "%" PRId64 " cases failed", k.failed);
  }
  free(k.taken);
  return code;
}
