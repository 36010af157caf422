/* convert.h: FP32 values rounded to the nearest BF16 or FP16, ties to even. */
#ifndef CLI_CONVERT_H
#define CLI_CONVERT_H

#include <stddef.h>
#include <stdint.h>

/* Rounds `count` floats, which may lie at any address, to `dtype`: FMLA_DTYPE_BF16 or FMLA_DTYPE_FP16. */
void round_floats(uint16_t *to, int32_t dtype, const void *from, size_t count);

#endif
