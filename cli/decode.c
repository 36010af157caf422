/* flashmla decode: a decode step from a safetensors file, computed, written, timed, and if asked checked. */
#include "common.h"
#include "compare.h"
#include "cost.h"
#include "device_step.h"
#include "file_step.h"
#include "options.h"
#include "timing.h"

#include <inttypes.h>
#include <stdio.h>

static const char help[] =
    "Usage: flashmla decode IN.safetensors -o OUT.safetensors [OPTION]...\n"
    "\n"
    "Computes the decode step that a file holds, writes its 'out' and 'lse' to another\n"
    "file, and prints the time it took. flashmla(1) describes the files.\n"
    "\n"
    "  -o, --output OUT\n"
    "                   where to write; replaced only once the result is complete\n" DEVICE_OPTION_HELP
        KERNEL_OPTION_HELP THREADS_OPTION_HELP
    "  --dtype T        what F32 tensors are rounded to: bf16 or fp16 [bf16]\n"
    "  --out-dtype T    the type of 'out': bf16, fp16 or fp32 [that of q]\n"
    "  --check          compare with an fp64 oracle; if they differ, write nothing and\n"
    "                   end with 1 [no]\n" HELP_OPTION_HELP "\n"
    "Example: flashmla decode step.safetensors -o result.safetensors --check\n" EXIT_CODES_HELP;

typedef struct decode_options {
  fmla_config config;
  const char *input, *output;
  int32_t dtype, out_dtype; /* 0: as the file says */
  bool check, help;
} decode_options;

enum { OPTION_DTYPE = OPTION_OF_VERB, OPTION_OUT_DTYPE, OPTION_CHECK };

static const struct option options[] = {
    {"output", required_argument, NULL, 'o'},
    DEVICE_OPTION,
    KERNEL_OPTION,
    THREADS_OPTION,
    {"dtype", required_argument, NULL, OPTION_DTYPE},
    {"out-dtype", required_argument, NULL, OPTION_OUT_DTYPE},
    {"check", no_argument, NULL, OPTION_CHECK},
    HELP_OPTION,
    {0},
};

static int parse_options(int argc, char **argv, decode_options *o) {
  *o = (decode_options){.config = FMLA_CONFIG_INIT};
  int code = EXIT_OK;
  for (int option; code == EXIT_OK && (option = next_option(argc, argv, "o:", options)) != -1;)
    switch (option) {
    case 'o':
      o->output = optarg;
      break;
    case OPTION_DTYPE:
      code = parse_dtype("--dtype", optarg, false, &o->dtype);
      break;
    case OPTION_OUT_DTYPE:
      code = parse_dtype("--out-dtype", optarg, true, &o->out_dtype);
      break;
    case OPTION_CHECK:
      o->check = true;
      break;
    case OPTION_HELP:
      o->help = true;
      return EXIT_OK;
    default:
      code = take_config_option(option, &o->config);
    }
  if (code != EXIT_OK)
    return code;
  if (optind == argc)
    return fail(EXIT_USAGE, "the input file is missing; see 'flashmla decode --help'");
  o->input = argv[optind++];
  if (o->output == NULL)
    return fail(EXIT_USAGE, "the output file is missing: -o OUT.safetensors");
  return refuse_operands(argc, argv);
}

static fmla_status run(void *step, int index) {
  (void)index;
  return device_step_run(step);
}

/* Decodes, and fetches the result into the step's own memory. */
static int compute(device_step *device, file_step *step, timing *time) {
  int code = fail_status(time_runs(run, device, time));
  if (code == EXIT_OK)
    code = file_step_allocate_results(step);
  return code == EXIT_OK ? device_step_fetch(device, &step->params) : code;
}

static int check(const fmla_decode_params *host, const char *kernel) {
  fmla_kernel_info info;
  const int code = find_kernel(kernel, &info);
  if (code != EXIT_OK)
    return code;
  verify_report report;
  if (verify_decode(host, (fmla_dtype)info.probability_dtype, &report) != 0)
    return fail_memory();
  printf("check    %" PRId64 " rows; worst error of out %.1e, of lse %.1e, at %.3f of the bound\n", report.rows,
         report.worst_out_error, report.worst_lse_error, report.worst_ratio);
  return report.failed_rows == 0 ? EXIT_OK : fail(EXIT_CHECK_FAILED, "%s", report.message);
}

static int report(const device_step *device, const fmla_decode_params *host, const timing *time, bool checked) {
  const char *kernel = NULL, *reason = NULL;
  fmla_context_info info = {.struct_size = sizeof info};
  fmla_status status = fmla_decode_kernel(device->context, &device->params, &kernel, &reason);
  if (status == FMLA_OK)
    status = fmla_get_context_info(device->context, &info);
  if (status != FMLA_OK)
    return fail_status(status);
  const step_cost cost = count_cost(host);
  printf("device   %s\n", info.device);
  printf("threads  %d\n", info.num_threads);
  printf("kernel   %s: %s\n", kernel, reason);
  printf("time     %.1f us, median of %d\n", 1e6 * time->median, time->runs);
  printf("rate     %.2f GB/s, %.4f TFLOPS\n", 1e-9 * cost.bytes / time->median,
         1e-12 * cost.operations / time->median);
  return checked ? check(host, kernel) : EXIT_OK;
}

static int decode_on(fmla_context *context, file_step *step, const decode_options *o) {
  device_step device;
  timing time;
  int code = device_step_place(context, &step->params, &device);
  if (code == EXIT_OK)
    code = compute(&device, step, &time);
  if (code != EXIT_OK)
    fail_about(o->input, code);
  else if ((code = report(&device, &step->params, &time, o->check)) == EXIT_OK)
    code = file_step_save_results(o->output, step);
  device_step_free(&device);
  return code;
}

int cmd_decode(int argc, char **argv) {
  decode_options o;
  int code = parse_options(argc, argv, &o);
  if (code != EXIT_OK || o.help)
    return code != EXIT_OK ? code : print_help(help);
  file_step step;
  if ((code = file_step_load(o.input, o.dtype, o.out_dtype, &step)) != EXIT_OK)
    return code;
  fmla_context *context = NULL;
  if ((code = open_context(&o.config, &context)) == EXIT_OK)
    code = decode_on(context, &step, &o);
  fmla_close(context);
  file_step_free(&step);
  return code;
}
