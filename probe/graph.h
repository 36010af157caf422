/* graph.h: a stream's work as a graph to be replayed, and its time on the device. */
#ifndef PROBE_GRAPH_H
#define PROBE_GRAPH_H

#include "gpu.h"

typedef struct probe_graph {
  CUgraph graph;
  CUgraphExec instance;
} probe_graph;

/* What is enqueued between the two becomes the graph. The end follows in every case, and probe_graph_free. */
bool probe_capture_begin(probe_gpu *gpu, CUstream stream);
bool probe_capture_end(probe_gpu *gpu, CUstream stream, probe_graph *graph);
bool probe_replay(probe_gpu *gpu, const probe_graph *graph, CUstream stream);
void probe_graph_free(probe_gpu *gpu, probe_graph *graph);

typedef struct probe_timer {
  CUevent start, end;
} probe_timer;

/* probe_timer_free follows in every case. */
bool probe_timer_create(probe_gpu *gpu, probe_timer *timer);
void probe_timer_free(probe_gpu *gpu, probe_timer *timer);

/* The time from one to the other on the device; the stop waits for it. */
bool probe_timer_start(probe_gpu *gpu, const probe_timer *timer, CUstream stream);
bool probe_timer_stop(probe_gpu *gpu, const probe_timer *timer, CUstream stream, double *seconds);

#endif
