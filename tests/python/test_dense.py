"""The shapes of FlashMLA's dense decoding test, through its calls."""

from dataclasses import replace

import dense
import flash_mla
import pytest
import torch

SHORT = 140  # tokens on average, in batches of 16, where a run has not the time for 128 of 4096


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "case" in metafunc.fixturenames:
        if metafunc.config.getoption("--full"):
            cases = dense.CORRECTNESS + dense.CORNERS
        else:
            cases = list(dense.every_pair(dense.CORRECTNESS))
            cases += dense.every_pair([replace(case, batch=16, seqlen_k=SHORT) for case in dense.CORNERS])
        metafunc.parametrize("case", cases, ids=lambda case: "-".join(map(str, dense.astuple(case))))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
@torch.inference_mode()
def test_agrees_with_pytorch(case: dense.Case, dtype: torch.dtype, device: str) -> None:
    step = dense.make_step(case, dtype, device)
    metadata, num_splits = flash_mla.get_mla_metadata()
    out, lse = flash_mla.flash_mla_with_kvcache(
        step.q,
        step.kv_cache,
        step.block_table,
        step.cache_seqlens,
        dense.HEAD_DIM_V,
        metadata,
        num_splits,
        causal=case.causal,
    )
    dense.check(step, case.causal, out, lse)


def test_sees_mistakes(device: str) -> None:
    """The comparison notices a wrong scale, a missing mask, a missing token, an empty row's lse."""
    case = dense.Case(2, 2, 140, 3, 1, varlen=True, causal=True)
    step = dense.make_step(case, torch.bfloat16, device)
    out, lse = dense.reference(step, causal=True)
    dense.check(step, True, out, lse)
    shorter = replace(step, cache_seqlens=step.cache_seqlens - 1)
    empty = replace(step, cache_seqlens=torch.zeros_like(step.cache_seqlens))
    for wrong in (
        dense.reference(step, False),
        dense.reference(shorter, True),
        (out, torch.full_like(lse, torch.inf)),
    ):
        with pytest.raises(AssertionError):
            dense.check(step, True, *wrong)
    with pytest.raises(AssertionError):
        dense.check(empty, True, torch.zeros_like(out), torch.full_like(lse, -torch.inf))
