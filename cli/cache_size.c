#include "cache_size.h"

#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* Reads the number with which a file begins that Linux keeps on a CPU's cache; K and M behind it are units. */
static bool read_number(int cpu, int index, const char *what, size_t *number) {
  char path[96], line[32], *unit;
  snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/cache/index%d/%s", cpu, index, what);
  FILE *file = fopen(path, "re");
  const bool got = file != NULL && fgets(line, sizeof line, file) != NULL;
  if (file != NULL)
    fclose(file);
  if (got) {
    *number = strtoul(line, &unit, 10);
    *number <<= *unit == 'K' ? 10 : *unit == 'M' ? 20 : 0;
  }
  return got;
}

/* The cache of the highest level that a CPU has: its size, and the first CPU of those that share it. */
static size_t last_cache(int cpu, size_t *first_sharing) {
  size_t bytes = 0, highest = 0, level, size, sharing;
  for (int index = 0; read_number(cpu, index, "level", &level); index++)
    if (level >= highest && read_number(cpu, index, "size", &size) &&
        read_number(cpu, index, "shared_cpu_list", &sharing)) {
      highest = level;
      bytes = size;
      *first_sharing = sharing;
    }
  return bytes;
}

static size_t caches_of_this_process(void) {
  cpu_set_t usable, counted;
  CPU_ZERO(&counted);
  if (sched_getaffinity(0, sizeof usable, &usable) != 0)
    return 0;
  size_t total = 0;
  for (size_t cpu = 0; cpu < CPU_SETSIZE; cpu++) {
    size_t first = 0;
    const size_t bytes = CPU_ISSET(cpu, &usable) ? last_cache((int)cpu, &first) : 0;
    if (bytes > 0 && first < CPU_SETSIZE && !CPU_ISSET(first, &counted)) {
      CPU_SET(first, &counted);
      total += bytes;
    }
  }
  return total;
}

size_t last_level_cache_bytes(void) {
  const size_t bytes = caches_of_this_process();
  if (bytes > 0)
    return bytes;
  const long level3 = sysconf(_SC_LEVEL3_CACHE_SIZE), level2 = sysconf(_SC_LEVEL2_CACHE_SIZE);
  const long known = level3 > 0 ? level3 : level2;
  return known > 0 ? (size_t)known : (size_t)32 << 20;
}
