/* flashmla info: the version, and what this machine's devices and kernels are. Both forms of the output show
   one description. */
#include "common.h"
#include "options.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

static const char help[] =
    "Usage: flashmla info [--json]\n"
    "\n"
    "Shows the version, the devices with their features, the kernels with what they need\n"
    "and take, and which kernel each device would choose and why.\n"
    "\n"
    "  --json           print it as JSON [as text]\n" HELP_OPTION_HELP "\n"
    "Example: flashmla info --json\n" EXIT_CODES_HELP;

/* ---- The description ---------------------------------------------------------------------------- */

/* The kernel that a device would choose to decode DeepSeek-V3's geometry, and why; or why there is none. */
static json_t *describe_choice(fmla_context *context, int32_t dtype) {
  fmla_decode_params p = FMLA_DECODE_PARAMS_INIT;
  p.batch_size = 1;
  p.num_q_heads = 128;
  p.num_pages = p.max_pages_per_seq = 64;
  p.softmax_scale = 1;
  p.q_dtype = p.out_dtype = dtype;
  p.kv_format = dtype == FMLA_DTYPE_BF16 ? FMLA_KV_BF16 : FMLA_KV_FP16;
  const char *kernel, *reason;
  if (fmla_decode_kernel(context, &p, &kernel, &reason) != FMLA_OK)
    return json_pack("{s:n, s:s}", "kernel", "reason", fmla_last_error());
  return json_pack("{s:s, s:s}", "kernel", kernel, "reason", reason);
}

/* What a device would choose for each type of cache; or why it cannot be opened. */
static json_t *describe_choices(const char *device) {
  fmla_config config = FMLA_CONFIG_INIT;
  config.device = device;
  config.num_threads = 1;
  fmla_context *context = NULL;
  if (fmla_open(&config, &context) != FMLA_OK)
    return json_pack("{s:s}", "error", fmla_last_error());
  json_t *choices = json_pack("{s:o, s:o}", "bf16", describe_choice(context, FMLA_DTYPE_BF16), "fp16",
                              describe_choice(context, FMLA_DTYPE_FP16));
  fmla_close(context);
  return choices;
}

static json_t *describe_device(int32_t index) {
  fmla_device_info info = {.struct_size = sizeof info};
  if (fmla_get_device_info(index, &info) != FMLA_OK)
    return NULL;
  return json_pack("{s:s, s:s, s:s, s:i, s:I, s:o}", "name", info.name, "description", info.description,
                   "features", info.features, "units", info.num_units, "memory_bytes",
                   (json_int_t)info.memory_bytes, "chosen", describe_choices(info.name));
}

static json_t *describe_kernel(int32_t index) {
  fmla_kernel_info info = {.struct_size = sizeof info};
  if (fmla_get_kernel_info(index, &info) != FMLA_OK)
    return NULL;
  return json_pack("{s:s, s:s, s:b, s:s, s:s, s:s}", "name", info.name, "backend", info.backend, "available",
                   info.available, "needs", info.needs, "takes", info.takes, "probabilities",
                   dtype_name(info.probability_dtype));
}

/* `what` of every index below `count`; NULL if one could not be described. */
static json_t *describe_all(int32_t count, json_t *(*what)(int32_t index)) {
  json_t *all = json_array();
  for (int32_t i = 0; i < count; i++)
    if (json_array_append_new(all, what(i)) != 0) {
      json_decref(all);
      return NULL;
    }
  return all;
}

/* Why there is no GPU; null if there is one. */
static json_t *describe_absence_of_gpus(void) {
  fmla_config config = FMLA_CONFIG_INIT;
  config.device = "cuda:0";
  fmla_context *context = NULL;
  const fmla_status status = fmla_open(&config, &context);
  fmla_close(context);
  return status == FMLA_ERROR_NO_DEVICE ? json_string(fmla_last_error()) : json_null();
}

static json_t *describe_machine(void) {
  return json_pack("{s:s, s:o, s:o, s:o}", "version", fmla_version_string(), "devices",
                   describe_all(fmla_device_count(), describe_device), "no_gpu", describe_absence_of_gpus(),
                   "kernels", describe_all(fmla_kernel_count(), describe_kernel));
}

/* ---- As text ------------------------------------------------------------------------------------ */

static const char *text(const json_t *object, const char *key) {
  const char *value = json_string_value(json_object_get(object, key));
  return value != NULL ? value : "none";
}

static void print_choice(const json_t *choices, const char *dtype) {
  const json_t *choice = json_object_get(choices, dtype);
  printf("    %s decode, head dims 576 and 512: %s (%s)\n", dtype, text(choice, "kernel"),
         text(choice, "reason"));
}

static void print_device(const json_t *device) {
  const json_t *choices = json_object_get(device, "chosen");
  printf("  %s: %s\n", text(device, "name"), text(device, "description"));
  printf("    units %d, memory %.1f GiB\n", (int)json_integer_value(json_object_get(device, "units")),
         (double)json_integer_value(json_object_get(device, "memory_bytes")) / (1 << 30));
  printf("    features: %s\n", text(device, "features"));
  if (json_object_get(choices, "error") != NULL) {
    printf("    cannot be opened: %s\n", text(choices, "error"));
    return;
  }
  print_choice(choices, "bf16");
  print_choice(choices, "fp16");
}

static void print_kernel(const json_t *kernel) {
  const bool available = json_is_true(json_object_get(kernel, "available"));
  printf("  %s: for %s, %s on this machine\n", text(kernel, "name"), text(kernel, "backend"),
         available ? "available" : "not available");
  printf("    needs: %s\n    takes: %s\n    probabilities: %s\n", text(kernel, "needs"), text(kernel, "takes"),
         text(kernel, "probabilities"));
}

static void print_machine(const json_t *machine) {
  size_t i;
  json_t *entry;
  printf("flashmla %s\n\ndevices\n", text(machine, "version"));
  json_array_foreach(json_object_get(machine, "devices"), i, entry) print_device(entry);
  if (json_is_string(json_object_get(machine, "no_gpu")))
    printf("  no GPU: %s\n", text(machine, "no_gpu"));
  printf("\nkernels, the preferred first\n");
  json_array_foreach(json_object_get(machine, "kernels"), i, entry) print_kernel(entry);
}

/* ---- The verb ----------------------------------------------------------------------------------- */

int cmd_info(int argc, char **argv) {
  enum { OPTION_JSON = OPTION_OF_VERB };
  static const struct option options[] = {{"json", no_argument, NULL, OPTION_JSON}, HELP_OPTION, {0}};
  bool as_json = false;
  for (int option; (option = next_option(argc, argv, "", options)) != -1;) {
    if (option == OPTION_HELP)
      return print_help(help);
    if (option != OPTION_JSON)
      return EXIT_USAGE;
    as_json = true;
  }
  const int code = refuse_operands(argc, argv);
  if (code != EXIT_OK)
    return code;
  json_t *machine = describe_machine();
  char *json = as_json && machine != NULL ? json_dumps(machine, JSON_INDENT(2)) : NULL;
  const bool complete = machine != NULL && (json != NULL || !as_json);
  if (json != NULL)
    puts(json);
  else if (complete)
    print_machine(machine);
  free(json);
  json_decref(machine);
  return complete ? EXIT_OK : fail_memory();
}
