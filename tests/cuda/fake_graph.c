/*
 * fake_graph.c: the driver's functions for graphs and events. Work is done as soon as it is enqueued, so every
 * event has happened.
 *
 * SPDX-License-Identifier: MIT
 */
#include "fake_internal.h"

enum { MAX_NODES = 256 };

struct CUgraph_st {
  int num_nodes;
  fake_launch nodes[MAX_NODES];
};
struct CUgraphExec_st {
  int num_nodes;
  fake_launch nodes[MAX_NODES];
};
struct CUevent_st {
  bool is_recorded;
};

/* ---- Graphs --------------------------------------------------------------------------------------- */

CUresult fake_append(CUgraph graph, const fake_launch *launch) {
  REQUIRE(graph->num_nodes < MAX_NODES, CUDA_ERROR_OUT_OF_MEMORY);
  graph->nodes[graph->num_nodes++] = *launch;
  return CUDA_SUCCESS;
}

CUresult fake_cuStreamBeginCapture(CUstream stream, int mode) {
  RECORD("cuStreamBeginCapture");
  REQUIRE(fake_has_current(), INVALID_CONTEXT);
  REQUIRE(stream != NULL && stream->graph == NULL && mode == CU_STREAM_CAPTURE_MODE_THREAD_LOCAL,
          INVALID_VALUE);
  stream->graph = fake_allocate(sizeof *stream->graph);
  REQUIRE(stream->graph != NULL, CUDA_ERROR_OUT_OF_MEMORY);
  stream->graph->num_nodes = 0;
  fake_count_graphs(1);
  return CUDA_SUCCESS;
}

/* It ends even if it fails. */
CUresult fake_cuStreamEndCapture(CUstream stream, CUgraph *graph) {
  const CUresult injected = fake_record("cuStreamEndCapture");
  REQUIRE(fake_has_current(), INVALID_CONTEXT);
  REQUIRE(stream->graph != NULL, INVALID_VALUE);
  *graph = injected == CUDA_SUCCESS ? stream->graph : NULL;
  if (injected != CUDA_SUCCESS) {
    fake_release(stream->graph);
    fake_count_graphs(-1);
  }
  stream->graph = NULL;
  return injected;
}

CUresult fake_cuGraphInstantiate(CUgraphExec *instance, CUgraph graph, unsigned long long flags) {
  RECORD("cuGraphInstantiate");
  REQUIRE(flags == 0, INVALID_VALUE);
  CUgraphExec made = fake_allocate(sizeof *made);
  REQUIRE(made != NULL, CUDA_ERROR_OUT_OF_MEMORY);
  made->num_nodes = graph->num_nodes;
  for (int i = 0; i < graph->num_nodes; i++)
    made->nodes[i] = graph->nodes[i];
  fake_count_graphs(1);
  *instance = made;
  return CUDA_SUCCESS;
}

CUresult fake_cuGraphLaunch(CUgraphExec instance, CUstream stream) {
  RECORD("cuGraphLaunch");
  REQUIRE(fake_has_current() && (stream == NULL || stream->graph == NULL), INVALID_VALUE);
  for (int i = 0; i < instance->num_nodes; i++)
    fake_run(&instance->nodes[i], NULL);
  return CUDA_SUCCESS;
}

CUresult fake_cuGraphExecDestroy(CUgraphExec instance) {
  RECORD("cuGraphExecDestroy");
  fake_release(instance);
  fake_count_graphs(-1);
  return CUDA_SUCCESS;
}

CUresult fake_cuGraphDestroy(CUgraph graph) {
  RECORD("cuGraphDestroy");
  fake_release(graph);
  fake_count_graphs(-1);
  return CUDA_SUCCESS;
}

/* ---- Events --------------------------------------------------------------------------------------- */

CUresult fake_cuEventCreate(CUevent *event, unsigned flags) {
  RECORD("cuEventCreate");
  REQUIRE(fake_has_current() && flags == 0, INVALID_VALUE);
  *event = fake_allocate(sizeof **event);
  REQUIRE(*event != NULL, CUDA_ERROR_OUT_OF_MEMORY);
  (*event)->is_recorded = false;
  fake_count_events(1);
  return CUDA_SUCCESS;
}

CUresult fake_cuEventRecord(CUevent event, CUstream stream) {
  (void)stream;
  RECORD("cuEventRecord");
  event->is_recorded = true;
  return CUDA_SUCCESS;
}

CUresult fake_cuEventQuery(CUevent event) {
  RECORD("cuEventQuery");
  REQUIRE(event->is_recorded, INVALID_HANDLE);
  return CUDA_SUCCESS;
}

CUresult fake_cuEventSynchronize(CUevent event) {
  RECORD("cuEventSynchronize");
  REQUIRE(event->is_recorded, INVALID_HANDLE);
  return CUDA_SUCCESS;
}

CUresult fake_cuEventElapsedTime(float *milliseconds, CUevent start, CUevent end) {
  RECORD("cuEventElapsedTime");
  REQUIRE(start->is_recorded && end->is_recorded, INVALID_HANDLE);
  *milliseconds = fake.milliseconds;
  return CUDA_SUCCESS;
}

CUresult fake_cuEventDestroy(CUevent event) {
  RECORD("cuEventDestroy");
  fake_release(event);
  fake_count_events(-1);
  return CUDA_SUCCESS;
}
