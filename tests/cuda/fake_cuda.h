/*
 * fake_cuda.h: a driver without a GPU, for tests. The library opens it in place of libcuda.so.1; the test links
 * it too and so holds its controls. Device memory is the host's, kernels do nothing but leave a record, and any
 * call can be made to fail.
 *
 * An image is the names of its functions, each followed by a space.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef CUDA_FAKE_CUDA_H
#define CUDA_FAKE_CUDA_H

#include "cuda/check_report.h"
#include "cuda/cuda_api.h"
#include "cuda/kernels/args.h"
#include "cuda/merge_args.h"

#include <stdbool.h>
#include <stddef.h>

enum { FAKE_DEVICES = 3, FAKE_LAUNCHES = 8 };

typedef struct fake_device {
  const char *name;
  int major, minor, num_sms, shared_per_cta, shared_per_sm;
} fake_device;

struct fake_launch;

/* What the driver is; to be changed before the library opens it, except where it says so. */
typedef struct fake_settings {
  int version;
  int num_devices;
  fake_device devices[FAKE_DEVICES];
  int ptx_version;                /* of every function */
  int ctas_per_sm;                /* that cuOccupancy... tells */
  fmlai_cuda_check_report report; /* that fmlai_check_values leaves; may change, as what follows */
  int l2_bytes;
  size_t free_bytes;  /* device memory that can be had */
  float milliseconds; /* between any two events */
  /* What a launch does, if it is to do something; a replayed one has no parameters. */
  void (*run)(const struct fake_launch *launch, void **parameters);
} fake_settings;

extern fake_settings fake;

typedef struct fake_launch {
  const char *name;
  unsigned grid, block, shared_bytes;
  CUstream stream;
  CUcontext context;
  bool chained;
  union {
    fmlai_cuda_decode_args decode;
    fmlai_cuda_merge_args merge;
  } args;
} fake_launch;

/* Things that are there now. The calling thread's stack of contexts, or of all threads. */
typedef struct fake_balance {
  int depth, retained, modules, allocations, streams, events, graphs;
} fake_balance;

fake_balance fake_now(void);

/* Forgets the calls and launches so far. From now, counted from 0, call `index` fails with `result`; -1: none
   does. A failing call does nothing. */
void fake_start(int index, CUresult result);

/* Since then: the number of calls, the name of each of the first 256, the one that failed or NULL, and the
   launches, of which the last FAKE_LAUNCHES are kept. */
int fake_num_calls(void);
const char *fake_call(int index);
const char *fake_failed_call(void);
int fake_num_launches(void);
const fake_launch *fake_launch_at(int index);

/* A context of the caller's own, as cuCtxCreate makes them; it is not made current. */
CUcontext fake_context(int device);
/* Makes it the calling thread's current one, or with NULL none; not counted as a call. */
void fake_set_current(CUcontext context);
CUcontext fake_current(void);

/* As if a capture had begun elsewhere: launches are still made. */
void fake_capture(CUstream stream, bool is_captured);

#endif
