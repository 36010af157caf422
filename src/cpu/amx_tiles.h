/*
 * The eight tile registers of AMX, each 16 rows of 64 bytes. Register numbers are literals. With
 * FMLAI_EMULATED_TILES they are plain memory, so that a kernel's logic can be tested on CPUs without AMX.
 */
#ifndef FMLAI_CPU_AMX_TILES_H
#define FMLAI_CPU_AMX_TILES_H

#include <stdint.h>
#include <string.h>

enum { TILE_DIM = 16, TILE_ROW_BYTES = 64, NUM_TILES = 8 };

/* gcc's tile intrinsics do not tell the compiler which memory they read. */
#define TILE_BARRIER() __asm__ volatile("" ::: "memory")

#if !defined(FMLAI_EMULATED_TILES)

#include <immintrin.h>

static inline void tiles_begin(void) {
  /* What LDTILECFG reads: palette 1, the bytes of a row and the rows of each tile. */
  struct {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
  } config = {.palette = 1};
  for (int i = 0; i < NUM_TILES; i++) {
    config.rows[i] = TILE_DIM;
    config.row_bytes[i] = TILE_ROW_BYTES;
  }
  TILE_BARRIER();
  _tile_loadconfig(&config);
}
static inline void tiles_end(void) {
  _tile_release();
}
#define tile_zero(tile)               _tile_zero(tile)
#define tile_load(tile, from, stride) _tile_loadd(tile, from, stride)
/* Leaves the first cache to others. */
#define tile_load_once(tile, from, stride) _tile_stream_loadd(tile, from, stride)
#define tile_store(tile, to, stride)       _tile_stored(tile, to, stride)
#define tile_multiply_add(tile, a, b)      _tile_dpbf16ps(tile, a, b)

#else

static _Thread_local uint32_t tiles[NUM_TILES][TILE_DIM][TILE_DIM];

static inline void tiles_begin(void) {
  memset(tiles, 0, sizeof tiles);
}
static inline void tiles_end(void) {
  memset(tiles, 0xff, sizeof tiles);
}
static inline void tile_zero(int tile) {
  memset(tiles[tile], 0, sizeof tiles[tile]);
}
static inline void tile_load(int tile, const void *from, int64_t stride) {
  for (int i = 0; i < TILE_DIM; i++)
    memcpy(tiles[tile][i], (const char *)from + i * stride, TILE_ROW_BYTES);
}
#define tile_load_once(tile, from, stride) tile_load(tile, from, stride)
static inline void tile_store(int tile, void *to, int64_t stride) {
  for (int i = 0; i < TILE_DIM; i++)
    memcpy((char *)to + i * stride, tiles[tile][i], TILE_ROW_BYTES);
}
static inline float float_of(uint32_t bits) {
  float f;
  memcpy(&f, &bits, sizeof f);
  return f;
}
/* tile[m][n] += the pairs a[m][k] times the pairs b[k][n] */
static inline void tile_multiply_add(int tile, int a, int b) {
  for (int m = 0; m < TILE_DIM; m++)
    for (int n = 0; n < TILE_DIM; n++) {
      float sum = float_of(tiles[tile][m][n]);
      for (int k = 0; k < TILE_DIM; k++) {
        const uint32_t x = tiles[a][m][k], y = tiles[b][k][n];
        sum += float_of(x << 16) * float_of(y << 16);
        sum += float_of(x & 0xffff0000u) * float_of(y & 0xffff0000u);
      }
      memcpy(&tiles[tile][m][n], &sum, sizeof sum);
    }
}

#endif

/* A tile's sums go to memory and others come, or zeros. Before a tile's first product this costs nothing; all
   at once, at the end of the sums, the stores wait for the last products and the next ones for them. */
#define tile_exchange(tile, to, from)                                                                          \
  do {                                                                                                         \
    tile_store(tile, to, TILE_ROW_BYTES);                                                                      \
    tile_load(tile, from, TILE_ROW_BYTES);                                                                     \
  } while (0)
#define tile_store_and_zero(tile, to)                                                                          \
  do {                                                                                                         \
    tile_store(tile, to, TILE_ROW_BYTES);                                                                      \
    tile_zero(tile);                                                                                           \
  } while (0)

#endif
