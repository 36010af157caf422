#include "bench_device.h"

#include "bench_gpu.h"
#include "common.h"
#include "options.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char gpu_prefix[] = "cuda:";

/* ---- Opening ------------------------------------------------------------------------------------ */

static int find_description(bench_device *device) {
  int code = EXIT_OK;
  for (int32_t i = 0; i < fmla_device_count() && code == EXIT_OK; i++) {
    fmla_device_info info = {.struct_size = sizeof info};
    code = fail_status(fmla_get_device_info(i, &info));
    if (code == EXIT_OK && strcmp(info.name, device->info.device) == 0)
      memcpy(device->description, info.description, sizeof device->description);
  }
  return code;
}

int bench_device_open(const fmla_config *config, bench_device *device) {
  *device = (bench_device){.info = {.struct_size = sizeof device->info}, .kernel = config->kernel};
  int code = open_context(config, &device->context);
  if (code == EXIT_OK)
    code = fail_status(fmla_get_context_info(device->context, &device->info));
  if (code == EXIT_OK)
    code = find_description(device);
  if (code != EXIT_OK || strncmp(device->info.device, gpu_prefix, strlen(gpu_prefix)) != 0)
    return code;
  device->is_gpu = true;
  const int32_t ordinal = (int32_t)strtol(device->info.device + strlen(gpu_prefix), NULL, 10);
  return probe_open(&device->gpu, ordinal) ? EXIT_OK : fail(EXIT_ENVIRONMENT, "%s", device->gpu.sentence);
}

void bench_device_close(bench_device *device) {
  if (device->is_gpu)
    probe_close(&device->gpu);
  fmla_close(device->context);
}

/* ---- Measuring ---------------------------------------------------------------------------------- */

int bench_device_measure_ceilings(bench_device *device) {
  if (!device->is_gpu)
    return measure_ceilings(&device->info, device->kernel, &device->ceilings);
  return probe_measure_ceilings(&device->gpu, &device->gpu_ceilings)
             ? EXIT_OK
             : fail(EXIT_ENVIRONMENT, "%s", device->gpu.sentence);
}

int bench_device_measure_row(bench_device *device, const bench_shape *shape, bench_row *row) {
  return device->is_gpu ? measure_row_on_gpu(device->context, &device->gpu, shape, row)
                        : measure_row(device->context, shape, device->ceilings.cache_bytes, row);
}

bench_floor bench_device_floor(const bench_device *device, int32_t dtype, const step_cost *cost) {
  const ceilings *cpu = &device->ceilings;
  const probe_ceilings *gpu = &device->gpu_ceilings;
  const int type = dtype == FMLA_DTYPE_FP16 ? PROBE_FP16 : PROBE_BF16;
  const double reading = cost->bytes / (device->is_gpu ? gpu->read_bytes : cpu->read_bytes);
  const double computing = cost->operations / (device->is_gpu ? gpu->operations[type] : cpu->operations);
  return (bench_floor){.seconds = reading > computing ? reading : computing,
                       .memory_bound = reading > computing};
}

/* ---- In words ----------------------------------------------------------------------------------- */

void bench_device_print(const bench_device *device) {
  const ceilings *cpu = &device->ceilings;
  const probe_ceilings *gpu = &device->gpu_ceilings;
  printf("flashmla %s, device %s, ", fmla_version_string(), device->info.device);
  if (!device->is_gpu) {
    printf("threads %d\n", device->info.num_threads);
    printf("ceilings: memory read %.1f GB/s, %s %.4f TFLOPS (last-level cache %.0f MiB)\n\n",
           1e-9 * cpu->read_bytes, cpu->instruction_set, 1e-12 * cpu->operations,
           (double)cpu->cache_bytes / (1 << 20));
    return;
  }
  char driver[128];
  probe_describe_driver(&device->gpu, driver, sizeof driver);
  printf("%s, %d SMs, %s\n", device->description, device->info.num_sms, driver);
  printf("ceilings: memory read %.1f GB/s (random pages of %d KiB, by %s; L2 %.0f MiB)\n",
         1e-9 * gpu->read_bytes, PROBE_PAGE_KIB,
         gpu->is_for_90 ? "bulk copies to shared memory" : "loads of 16 bytes",
         (double)device->gpu.l2_bytes / (1 << 20));
  printf("ceilings: matrix units BF16 %.1f, FP16 %.1f TFLOPS (%s on random numbers, after 0.1 s of load; %.1f "
         "and %.1f in the first 0.02 s)\n\n",
         1e-12 * gpu->operations[PROBE_BF16], 1e-12 * gpu->operations[PROBE_FP16],
         gpu->is_for_90 ? "wgmma" : "mma", 1e-12 * gpu->burst_operations[PROBE_BF16],
         1e-12 * gpu->burst_operations[PROBE_FP16]);
}

json_t *bench_device_describe(const bench_device *device) {
  const ceilings *cpu = &device->ceilings;
  const probe_ceilings *gpu = &device->gpu_ceilings;
  if (!device->is_gpu)
    return json_pack("{s:s, s:s, s:i, s:{s:f, s:f, s:I}}", "device", device->info.device, "description",
                     device->description, "threads", device->info.num_threads, "ceilings", "read_gb_per_s",
                     1e-9 * cpu->read_bytes, "multiply_add_tflops", 1e-12 * cpu->operations, "cache_bytes",
                     (json_int_t)cpu->cache_bytes);
  char driver[128];
  probe_describe_driver(&device->gpu, driver, sizeof driver);
  return json_pack("{s:s, s:s, s:s, s:i, s:{s:f, s:s, s:f, s:f, s:f, s:f, s:I}}", "device", device->info.device,
                   "description", device->description, "driver", driver, "sms", device->info.num_sms,
                   "ceilings", "read_gb_per_s", 1e-9 * gpu->read_bytes, "matrix_instruction",
                   gpu->is_for_90 ? "wgmma" : "mma", "bf16_tflops", 1e-12 * gpu->operations[PROBE_BF16],
                   "fp16_tflops", 1e-12 * gpu->operations[PROBE_FP16], "bf16_burst_tflops",
                   1e-12 * gpu->burst_operations[PROBE_BF16], "fp16_burst_tflops",
                   1e-12 * gpu->burst_operations[PROBE_FP16], "cache_bytes", (json_int_t)device->gpu.l2_bytes);
}
