/* options.h: command lines, read with getopt_long; every mistake is one sentence and EXIT_USAGE. */
#ifndef CLI_OPTIONS_H
#define CLI_OPTIONS_H

#include "common.h"

#include <getopt.h>
#include <stdbool.h>
#include <stdint.h>

/* Options that several verbs have. Those of one verb alone are numbered from OPTION_OF_VERB. */
enum { OPTION_HELP = 256, OPTION_DEVICE, OPTION_KERNEL, OPTION_THREADS, OPTION_OF_VERB };

#define HELP_OPTION                                                                                            \
  { "help", no_argument, NULL, OPTION_HELP }
#define DEVICE_OPTION                                                                                          \
  { "device", required_argument, NULL, OPTION_DEVICE }
#define KERNEL_OPTION                                                                                          \
  { "kernel", required_argument, NULL, OPTION_KERNEL }
#define THREADS_OPTION                                                                                         \
  { "threads", required_argument, NULL, OPTION_THREADS }

#define DEVICE_OPTION_HELP  "  --device D       auto, cpu or cuda:N [auto]\n"
#define KERNEL_OPTION_HELP  "  --kernel K       a kernel that 'flashmla info' lists [the best for each call]\n"
#define THREADS_OPTION_HELP "  --threads N      CPU threads; 0: as many as this process may use [0]\n"
#define HELP_OPTION_HELP    "  --help           print this and end\n"
#define EXIT_CODES_HELP                                                                                        \
  "\n"                                                                                                         \
  "Exit codes: 0 ok, 1 check failed, 2 usage, 3 invalid input, 4 the environment\n"                            \
  "failed (device, memory, disk)\n"

/* The value of the next option; -1 behind the last; '?' after fail(). `letters` are the short ones, as for
   getopt. */
int next_option(int argc, char **argv, const char *letters, const struct option *options);

/* Prints a help text; EXIT_OK. */
int print_help(const char *text);

/* Takes OPTION_DEVICE, OPTION_KERNEL and OPTION_THREADS into a configuration. For anything else, such as '?',
   returns EXIT_USAGE without a word, as next_option has said what is wrong. */
int take_config_option(int option, fmla_config *config);

/* fmla_open; a device's name that means nothing is EXIT_USAGE. */
int open_context(const fmla_config *config, fmla_context **context);

/* What the library says of a kernel; EXIT_USAGE if it has none of that name. */
int find_kernel(const char *name, fmla_kernel_info *info);

/* EXIT_USAGE if operands are left that the verb does not take. */
int refuse_operands(int argc, char **argv);

/* The values of options; `option` is the name, "--threads". EXIT_OK or EXIT_USAGE. */
int parse_int(const char *option, const char *text, int64_t least, int64_t most, int64_t *value);
int parse_dtype(const char *option, const char *text, bool fp32_too, int32_t *dtype);

/* "bf16" */
const char *dtype_name(int32_t dtype);

#endif
