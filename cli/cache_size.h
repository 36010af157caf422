/* cache_size.h: how much of what was used before the last-level caches may still hold. */
#ifndef CLI_CACHE_SIZE_H
#define CLI_CACHE_SIZE_H

#include <stddef.h>

/* Data that is so many times as large as the caches, and read in order, always comes from memory. */
enum { CACHES_OUTGROWN = 4 };

/* The last-level caches of all CPUs that this process may run on, together. Never 0. */
size_t last_level_cache_bytes(void);

#endif
