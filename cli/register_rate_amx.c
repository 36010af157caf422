#include "register_rate.h"

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

/* The layout that LDTILECFG reads: palette 1, rows and bytes of a row for each tile. */
typedef struct tile_config {
  uint8_t palette, start_row, reserved[14];
  uint16_t row_bytes[16];
  uint8_t rows[16];
} tile_config;

enum { TILE_ROWS = 16, TILE_ROW_BYTES = 64, NUM_TILES = 8, CHAIN = 500, PRODUCTS = 4 };

double register_work_amx(float start, volatile double *kept) {
  tile_config config = {.palette = 1};
  for (int i = 0; i < NUM_TILES; i++) {
    config.rows[i] = TILE_ROWS;
    config.row_bytes[i] = TILE_ROW_BYTES;
  }
  float tile[TILE_ROWS][TILE_ROWS];
  for (int i = 0; i < TILE_ROWS; i++)
    for (int j = 0; j < TILE_ROWS; j++)
      tile[i][j] = start + 1e-3f * (float)(i + j);
  __asm__ volatile("" ::: "memory"); /* gcc 12 does not see that the next lines read what was stored */
  _tile_loadconfig(&config);
  _tile_loadd(4, tile, TILE_ROW_BYTES);
  _tile_loadd(5, tile, TILE_ROW_BYTES);
  _tile_loadd(6, tile, TILE_ROW_BYTES);
  _tile_loadd(7, tile, TILE_ROW_BYTES);
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (int i = 0; i < CHAIN; i++) {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_stored(0, tile, TILE_ROW_BYTES);
  __asm__ volatile("" ::: "memory");
  *kept = (double)tile[0][0];
  _tile_release();
  const double depth = TILE_ROW_BYTES / 2.0;
  return 2.0 * TILE_ROWS * TILE_ROWS * depth * PRODUCTS * CHAIN;
}
