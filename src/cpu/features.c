#include "features.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { EAX, EBX, ECX, EDX };

/* The state components (XCR0) that the system saves: without them, their instructions fault. */
enum { XCR0_AVX = 0x6, XCR0_AVX512 = 0xe6, XCR0_AMX = 0x60000 };

static uint64_t enabled_state(void) {
  uint32_t regs[4];
  if (!__get_cpuid(1, &regs[EAX], &regs[EBX], &regs[ECX], &regs[EDX]) || (regs[ECX] & bit_OSXSAVE) == 0)
    return 0;
  uint32_t low, high;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return ((uint64_t)high << 32) | low;
}

static uint32_t has(uint32_t leaf, uint32_t subleaf, int reg, int bit) {
  uint32_t regs[4];
  if (!__get_cpuid_count(leaf, subleaf, &regs[EAX], &regs[EBX], &regs[ECX], &regs[EDX]))
    return 0;
  return regs[reg] >> bit & 1;
}

/* Tiles are large, so Linux saves them for processes that ask, and refuses those with small signal stacks. */
static bool may_use_tiles(void) {
  enum { ARCH_REQ_XCOMP_PERM = 0x1023, XTILEDATA = 18 };
  return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XTILEDATA) == 0;
}

/* The features whose names begin with one of the words. */
static uint32_t features_named(const char *words) {
  uint32_t named = 0;
  while (*words != '\0') {
    const size_t length = strcspn(words, ",");
#define X(id, name, leaf, subleaf, reg, bit)                                                                   \
  if (length > 0 && strncmp(name, words, length) == 0)                                                         \
    named |= FMLAI_CPU_##id;
    FMLAI_CPU_FEATURES(X)
#undef X
    words += length + (words[length] == ',');
  }
  return named;
}

uint32_t fmlai_cpu_features(void) {
  uint32_t features = 0;
#define X(id, name, leaf, subleaf, reg, bit) features |= has(leaf, subleaf, reg, bit) << FMLAI_CPU_BIT_##id;
  FMLAI_CPU_FEATURES(X)
#undef X
  const uint32_t amx = FMLAI_CPU_AMX_TILE | FMLAI_CPU_AMX_BF16 | FMLAI_CPU_AMX_FP16;
  const uint32_t avx512 =
      FMLAI_CPU_AVX512F | FMLAI_CPU_AVX512BW | FMLAI_CPU_AVX512VL | FMLAI_CPU_AVX512BF16 | FMLAI_CPU_AVX512FP16;
  const uint32_t avx = FMLAI_CPU_AVX | FMLAI_CPU_F16C | FMLAI_CPU_FMA | FMLAI_CPU_AVX2;
  const uint64_t state = enabled_state();
  if ((state & XCR0_AMX) != XCR0_AMX)
    features &= ~amx;
  if ((state & XCR0_AVX512) != XCR0_AVX512)
    features &= ~avx512;
  if ((state & XCR0_AVX) != XCR0_AVX)
    features &= ~avx;
  const char *disabled = getenv("FMLA_CPU_DISABLE");
  if (disabled != NULL)
    features &= ~features_named(disabled);
  if ((features & amx) != 0 && !may_use_tiles())
    features &= ~amx;
  return features;
}

void fmlai_cpu_description(char *text, size_t bytes) {
  uint32_t words[12] = {0};
  const uint32_t first = 0x80000002u;
  for (uint32_t i = 0; i < 3; i++)
    if (!__get_cpuid(first + i, &words[4 * i], &words[4 * i + 1], &words[4 * i + 2], &words[4 * i + 3]))
      words[0] = 0;
  char brand[sizeof words + 1] = {0};
  memcpy(brand, words, sizeof words);
  const char *start = brand + strspn(brand, " ");
  snprintf(text, bytes, "%s", *start ? start : "x86-64 CPU");
}

#else

uint32_t fmlai_cpu_features(void) {
  return 0;
}

void fmlai_cpu_description(char *text, size_t bytes) {
  snprintf(text, bytes, "CPU");
}

#endif

void fmlai_cpu_feature_names(uint32_t features, char *text, size_t bytes) {
  size_t used = 0;
  *text = '\0';
#define X(id, name, leaf, subleaf, reg, bit)                                                                   \
  if ((features & FMLAI_CPU_##id) != 0 && used < bytes)                                                        \
    used += (size_t)snprintf(text + used, bytes - used, "%s%s", used > 0 ? " " : "", name);
  FMLAI_CPU_FEATURES(X)
#undef X
}
