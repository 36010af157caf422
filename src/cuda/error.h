/* Failures of the driver as statuses, with its words in the sentence. */
#ifndef FMLAI_CUDA_ERROR_H
#define FMLAI_CUDA_ERROR_H

#include "cuda/driver.h"
#include "status.h"

/* FMLA_OK, or keeps the sentence and returns its status. */
fmla_status fmlai_cuda_status(const fmlai_cuda_driver *driver, const char *call, CUresult result);

/* A call of the driver as one that returns a status. */
#define FMLAI_CUDA_CALL(driver, function, ...)                                                                 \
  fmlai_cuda_status((driver), #function, (driver)->function(__VA_ARGS__))

#endif
