/* The flashmla program: a table of verbs, and what holds for all of them. */
#include "common.h"
#include "options.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static const struct verb {
  const char *name;
  int (*run)(int argc, char **argv);
  const char *summary;
} verbs[] = {
    {"info", cmd_info, "show the version, devices and kernels of this machine"},
    {"decode", cmd_decode, "compute a decode step from a safetensors file"},
    {"bench", cmd_bench, "time decode steps against what the machine could do"},
    {"check", cmd_check, "hold every kernel against an fp64 oracle"},
};
enum { NUM_VERBS = sizeof verbs / sizeof *verbs };

static int help(void) {
  printf("Usage: flashmla COMMAND [OPTION]...\n\n"
         "Decodes Multi-head Latent Attention (MLA) from a paged KV cache.\n\nCommands:\n");
  for (int i = 0; i < NUM_VERBS; i++)
    printf("  %-8s %s\n", verbs[i].name, verbs[i].summary);
  printf("\n'flashmla COMMAND --help' tells more, and 'flashmla --version' the version.\n" EXIT_CODES_HELP);
  return EXIT_OK;
}

static int version(void) {
  printf("flashmla %s\n", fmla_version_string());
  return EXIT_OK;
}

static int run(int argc, char **argv) {
  if (argc < 2)
    return fail(EXIT_USAGE, "a command is missing; see 'flashmla --help'");
  if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0)
    return help();
  if (strcmp(argv[1], "--version") == 0)
    return version();
  for (int i = 0; i < NUM_VERBS; i++)
    if (strcmp(argv[1], verbs[i].name) == 0)
      return verbs[i].run(argc - 1, argv + 1);
  return fail(EXIT_USAGE, "'%s' is not a command; see 'flashmla --help'", argv[1]);
}

/* A standard stream that is closed would lend its number to the next file opened, and what is printed would end
   up in there. What takes its place here refuses every read or write instead. */
static void occupy_closed_streams(void) {
  for (int fd = 0; fd <= 2; fd++)
    if (fcntl(fd, F_GETFD) < 0 && errno == EBADF && open("/dev/null", fd == 0 ? O_WRONLY : O_RDONLY) < 0)
      _exit(EXIT_ENVIRONMENT);
}

int main(int argc, char **argv) {
  occupy_closed_streams();
  signal(SIGXFSZ, SIG_IGN); /* a file grown too large is then an error of write */

  int code = run(argc, argv);
  if ((fflush(stdout) != 0 || ferror(stdout)) && code == EXIT_OK)
    code = fail(EXIT_ENVIRONMENT, "cannot write to standard output");
  if (code != EXIT_OK)
    fprintf(stderr, "flashmla: %s\n", failure_sentence());
  return code;
}
