/* header_c11.c: the public header alone, as C11. */
#include "flash_mla.h"

static int differs(void) {
  const fmla_config config = FMLA_CONFIG_INIT;
  const fmla_decode_params decode = FMLA_DECODE_PARAMS_INIT;
  const fmla_merge_params merge = FMLA_MERGE_PARAMS_INIT;
  return config.struct_size != sizeof config || decode.struct_size != sizeof decode ||
         merge.struct_size != sizeof merge || decode.q_stride_head != FMLA_PACKED;
}

int main(void) {
  return differs() || fmla_device_count() < 1;
}
