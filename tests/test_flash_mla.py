"""Checks decoding against PyTorch and times it, on the GPU if there is one, else on the CPU.

    python tests/test_flash_mla.py [--dtype fp16]

The package has to be installed. On a GPU the configurations are those of FlashMLA's own test; on a CPU, smaller ones.
"""

import argparse
import sys
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from statistics import median

import torch
from flash_mla import flash_mla_with_kvcache, get_mla_metadata

sys.path.append(str(Path(__file__).parent / "python"))
from dense import HEAD_DIM, HEAD_DIM_V, Case, check, make_step

RUNS = 20
FLUSH_BYTES = 1 << 28  # more than a GPU's L2 cache holds


def time_on_gpu(call: Callable[[], object]) -> float:
    """The median time of a call in seconds, with nothing of its inputs in the cache."""
    flush = torch.empty(FLUSH_BYTES, dtype=torch.uint8, device="cuda")
    pairs = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(RUNS)]
    for start, end in pairs:
        flush.zero_()
        start.record()
        call()
        end.record()
    torch.cuda.synchronize()
    return median(start.elapsed_time(end) for start, end in pairs) / 1e3


def time_on_cpu(call: Callable[[], object]) -> float:
    """The median time of a call in seconds."""
    times = []
    while len(times) < 3 or (sum(times) < 1 and len(times) < RUNS):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return median(times)


@torch.inference_mode()
def test_flash_mla(case: Case, dtype: torch.dtype, device: str) -> None:
    """Runs a configuration; prints its time, rate of computation and rate of reading and writing."""
    print(case)
    step = make_step(case, dtype, device)
    metadata, num_splits = get_mla_metadata(
        step.cache_seqlens, case.seqlen_q * case.heads // case.kv_heads, case.kv_heads
    )

    def call() -> tuple[torch.Tensor, torch.Tensor]:
        return flash_mla_with_kvcache(
            step.q,
            step.kv_cache,
            step.block_table,
            step.cache_seqlens,
            HEAD_DIM_V,
            metadata,
            num_splits,
            causal=case.causal,
        )

    check(step, case.causal, *call())
    seconds = (time_on_gpu if device == "cuda" else time_on_cpu)(call)
    tokens = int(step.cache_seqlens.sum())
    rows = case.batch * case.seqlen_q * case.heads
    flops = 2 * case.seqlen_q * case.heads * tokens * (HEAD_DIM + HEAD_DIM_V)
    num_bytes = (tokens * case.kv_heads * HEAD_DIM + rows * (HEAD_DIM + HEAD_DIM_V)) * step.q.element_size()
    print(f"{seconds * 1e3:.3f} ms, {flops / seconds / 1e12:.3g} TFLOPS, {num_bytes / seconds / 1e9:.3g} GB/s")


def main() -> None:
    """Runs every configuration."""
    parser = argparse.ArgumentParser(description="check flash_mla against PyTorch, and time it")
    parser.add_argument("--dtype", choices=["bf16", "fp16"], default="bf16")
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}[parser.parse_args().dtype]
    if torch.cuda.is_available():
        device = "cuda"
        shapes = product((128,), (4096, 8192, 16384), (16, 32, 64, 128), (1, 2), (False, True))
    else:
        device = "cpu"
        shapes = product((4,), (256, 1024), (1, 16, 128), (1, 2), (False, True))
    for batch, seqlen_k, heads, seqlen_q, varlen in shapes:
        test_flash_mla(Case(batch, seqlen_q, seqlen_k, heads, 1, varlen, causal=True), dtype, device)


if __name__ == "__main__":
    main()
