#include "cuda/error.h"

#include <stdbool.h>

/* After these, every call on the device fails, in most cases until the process ends. */
static bool outlasts_the_call(CUresult result) {
  switch (result) {
  case CUDA_ERROR_ECC_UNCORRECTABLE:
  case CUDA_ERROR_NVLINK_UNCORRECTABLE:
  case CUDA_ERROR_CONTAINED:
  case CUDA_ERROR_ILLEGAL_ADDRESS:
  case CUDA_ERROR_LAUNCH_TIMEOUT:
  case CUDA_ERROR_ASSERT:
  case CUDA_ERROR_HARDWARE_STACK_ERROR:
  case CUDA_ERROR_ILLEGAL_INSTRUCTION:
  case CUDA_ERROR_MISALIGNED_ADDRESS:
  case CUDA_ERROR_INVALID_ADDRESS_SPACE:
  case CUDA_ERROR_INVALID_PC:
  case CUDA_ERROR_LAUNCH_FAILED:
  case CUDA_ERROR_TENSOR_MEMORY_LEAK:
  case CUDA_ERROR_MPS_CLIENT_TERMINATED:
  case CUDA_ERROR_EXTERNAL_DEVICE:
    return true;
  default:
    return false;
  }
}

fmla_status fmlai_cuda_status(const fmlai_cuda_driver *driver, const char *call, CUresult result) {
  if (result == CUDA_SUCCESS)
    return FMLA_OK;
  char text[384];
  fmlai_cuda_describe(driver, call, result, text, sizeof text);
  if (outlasts_the_call(result))
    return FMLAI_FAIL(FMLA_ERROR_DEVICE_LOST, "%s; the device cannot be used any more by this process", text);
  return FMLAI_FAIL(result == CUDA_ERROR_OUT_OF_MEMORY ? FMLA_ERROR_OUT_OF_MEMORY : FMLA_ERROR_DEVICE, "%s",
                    text);
}
