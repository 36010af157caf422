#include "options.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int next_option(int argc, char **argv, const char *letters, const struct option *options) {
  char all_letters[16];
  snprintf(all_letters, sizeof all_letters, ":%s", letters);
  opterr = 0;
  const int option = getopt_long(argc, argv, all_letters, options, NULL);
  if (option != '?' && option != ':')
    return option;
  const char *word = argv[optind - 1];
  char letter[3] = {'-', (char)optopt, '\0'};
  const bool is_letter = optopt > 0 && optopt < OPTION_HELP;
  if (option == ':')
    fail(EXIT_USAGE, "option '%s' needs a value", is_letter ? letter : word);
  else if (optopt >= OPTION_HELP)
    fail(EXIT_USAGE, "option '%s' takes no value", word);
  else
    fail(EXIT_USAGE, "unknown or ambiguous option '%s'; see 'flashmla %s --help'", is_letter ? letter : word,
         argv[0]);
  return '?';
}

int print_help(const char *text) {
  fputs(text, stdout);
  return EXIT_OK;
}

int refuse_operands(int argc, char **argv) {
  if (optind == argc)
    return EXIT_OK;
  return fail(EXIT_USAGE, "'%s' is one argument too many; see 'flashmla %s --help'", argv[optind], argv[0]);
}

/* ---- Devices and kernels ------------------------------------------------------------------------ */

int find_kernel(const char *name, fmla_kernel_info *info) {
  char known[256] = "";
  size_t used = 0;
  for (int32_t i = 0; i < fmla_kernel_count(); i++) {
    *info = (fmla_kernel_info){.struct_size = sizeof *info};
    const int code = fail_status(fmla_get_kernel_info(i, info));
    if (code != EXIT_OK || strcmp(info->name, name) == 0)
      return code;
    if (used < sizeof known)
      used += (size_t)snprintf(known + used, sizeof known - used, "%s%s", i > 0 ? ", " : "", info->name);
  }
  return fail(EXIT_USAGE, "kernel '%s' is none of this build's: %s", name, known);
}

int take_config_option(int option, fmla_config *config) {
  int code;
  int64_t threads = 0;
  fmla_kernel_info kernel;
  switch (option) {
  case OPTION_DEVICE:
    config->device = optarg;
    return EXIT_OK;
  case OPTION_KERNEL:
    config->kernel = optarg;
    return find_kernel(optarg, &kernel);
  case OPTION_THREADS:
    if ((code = parse_int("--threads", optarg, 0, INT32_MAX, &threads)) == EXIT_OK)
      config->num_threads = (int32_t)threads;
    return code;
  default:
    return EXIT_USAGE;
  }
}

int open_context(const fmla_config *config, fmla_context **context) {
  const fmla_status status = fmla_open(config, context);
  const int code = fail_status(status);
  return status == FMLA_ERROR_INVALID_ARGUMENT ? EXIT_USAGE : code;
}

/* ---- Values ------------------------------------------------------------------------------------- */

int parse_int(const char *option, const char *text, int64_t least, int64_t most, int64_t *value) {
  char *end;
  errno = 0;
  const long long number = strtoll(text, &end, 10);
  if (isspace((unsigned char)text[0]) || end == text || *end != '\0' || errno != 0 || number < least ||
      number > most)
    return fail(EXIT_USAGE, "%s is '%s', but must be an integer from %" PRId64 " to %" PRId64, option, text,
                least, most);
  *value = number;
  return EXIT_OK;
}

static const char *const dtype_names[] = {
    [FMLA_DTYPE_BF16] = "bf16", [FMLA_DTYPE_FP16] = "fp16", [FMLA_DTYPE_FP32] = "fp32"};

const char *dtype_name(int32_t dtype) {
  return dtype_names[dtype];
}

int parse_dtype(const char *option, const char *text, bool fp32_too, int32_t *dtype) {
  for (int32_t i = FMLA_DTYPE_BF16; i <= (fp32_too ? FMLA_DTYPE_FP32 : FMLA_DTYPE_FP16); i++)
    if (strcmp(text, dtype_names[i]) == 0) {
      *dtype = i;
      return EXIT_OK;
    }
  return fail(EXIT_USAGE, "%s is '%s', but must be bf16%s", option, text,
              fp32_too ? ", fp16 or fp32" : " or fp16");
}
