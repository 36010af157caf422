/* What this CPU can do, as bits for kernels to ask for. */
#ifndef FMLAI_CPU_FEATURES_H
#define FMLAI_CPU_FEATURES_H

#include <stddef.h>
#include <stdint.h>

/* Name, as fmla_device_info.features spells it, and where CPUID (leaf, subleaf, register, bit) tells of it. */
#define FMLAI_CPU_FEATURES(X)                                                                                  \
  X(SSE42, "sse4.2", 1, 0, ECX, 20)                                                                            \
  X(AVX, "avx", 1, 0, ECX, 28)                                                                                 \
  X(F16C, "f16c", 1, 0, ECX, 29)                                                                               \
  X(FMA, "fma", 1, 0, ECX, 12)                                                                                 \
  X(AVX2, "avx2", 7, 0, EBX, 5)                                                                                \
  X(AVX512F, "avx512f", 7, 0, EBX, 16)                                                                         \
  X(AVX512BW, "avx512bw", 7, 0, EBX, 30)                                                                       \
  X(AVX512VL, "avx512vl", 7, 0, EBX, 31)                                                                       \
  X(AVX512BF16, "avx512bf16", 7, 1, EAX, 5)                                                                    \
  X(AVX512FP16, "avx512fp16", 7, 0, EDX, 23)                                                                   \
  X(AMX_TILE, "amx_tile", 7, 0, EDX, 24)                                                                       \
  X(AMX_BF16, "amx_bf16", 7, 0, EDX, 22)                                                                       \
  X(AMX_FP16, "amx_fp16", 7, 1, EAX, 21)

enum {
#define X(id, name, leaf, subleaf, reg, bit) FMLAI_CPU_BIT_##id,
  FMLAI_CPU_FEATURES(X)
#undef X
};

enum {
#define X(id, name, leaf, subleaf, reg, bit) FMLAI_CPU_##id = 1 << FMLAI_CPU_BIT_##id,
  FMLAI_CPU_FEATURES(X)
#undef X
};

/* What objects may use that are compiled for AVX2, for AVX-512, for AMX: each implies the one before. */
enum {
  FMLAI_CPU_FOR_AVX2 = FMLAI_CPU_AVX | FMLAI_CPU_F16C | FMLAI_CPU_FMA | FMLAI_CPU_AVX2,
  FMLAI_CPU_FOR_AVX512 = FMLAI_CPU_FOR_AVX2 | FMLAI_CPU_AVX512F | FMLAI_CPU_AVX512BW | FMLAI_CPU_AVX512VL,
  FMLAI_CPU_FOR_AMX = FMLAI_CPU_FOR_AVX512 | FMLAI_CPU_AVX512BF16 | FMLAI_CPU_AMX_TILE | FMLAI_CPU_AMX_BF16
};

/*
 * The features that the CPU has and the system lets this process use. AMX is asked for where it must be. The
 * environment variable FMLA_CPU_DISABLE takes features away: words separated by commas, each for all features
 * whose names begin with it. 0 on other architectures than x86-64.
 */
uint32_t fmlai_cpu_features(void);

/* Their names, separated by spaces. */
void fmlai_cpu_feature_names(uint32_t features, char *text, size_t bytes);

/* The maker's name of the CPU, or of the architecture. */
void fmlai_cpu_description(char *text, size_t bytes);

#endif
