"""FlashMLA's calling conventions, old and new."""

import inspect
import math

import dense
import flash_mla
import pytest
import torch
from flash_mla import flash_mla_interface
from torch import Tensor

CASE = dense.Case(3, 2, 140, 8, 1, varlen=True, causal=True)


def make_step(device: str) -> dense.Step:
    return dense.make_step(CASE, torch.bfloat16, device)


def decode(step: dense.Step, *metadata: object, causal: bool = True) -> tuple[Tensor, Tensor]:
    return flash_mla.flash_mla_with_kvcache(
        step.q, step.kv_cache, step.block_table, step.cache_seqlens, 512, *metadata, causal=causal
    )


def test_names() -> None:
    for name in (
        "get_mla_metadata",
        "flash_mla_with_kvcache",
        "flash_attn_varlen_func",
        "flash_attn_varlen_qkvpacked_func",
        "flash_attn_varlen_kvpacked_func",
        "flash_mla_sparse_fwd",
    ):
        assert getattr(flash_mla, name) is getattr(flash_mla_interface, name)
        assert name in flash_mla.__all__
    with pytest.raises(AttributeError, match="nonesuch"):
        _ = flash_mla.nonesuch


def test_signature() -> None:
    required = ["q", "k_cache", "block_table", "cache_seqlens", "head_dim_v", "tile_scheduler_metadata"]
    optional = {
        "num_splits": None,
        "softmax_scale": None,
        "causal": False,
        "is_fp8_kvcache": False,
        "indices": None,
        "attn_sink": None,
        "extra_k_cache": None,
        "extra_indices_in_kvcache": None,
        "topk_length": None,
        "extra_topk_length": None,
    }
    parameters = inspect.signature(flash_mla.flash_mla_with_kvcache).parameters
    assert list(parameters) == [*required, *optional]
    assert all(parameters[name].default is inspect.Parameter.empty for name in required)
    assert {name: parameters[name].default for name in optional} == optional


def test_newer_convention(device: str) -> None:
    """One metadata object serves calls of other lengths and shapes: nothing is stored in it."""
    metadata, num_splits = flash_mla.get_mla_metadata()
    assert metadata == flash_mla.FlashMLASchedMeta()
    assert num_splits is None
    step = make_step(device)
    dense.check(step, True, *decode(step, metadata, num_splits))
    step.cache_seqlens //= 2
    dense.check(step, True, *decode(step, metadata, num_splits))
    step = dense.make_step(dense.Case(1, 1, 20, 16, 1, varlen=False, causal=False), torch.float16, device)
    dense.check(step, False, *decode(step, metadata, causal=False))
    assert metadata == flash_mla.FlashMLASchedMeta()


def test_older_convention(device: str) -> None:
    """Engines keep the two tensors in buffers of their own, of the largest batch, and hand over slices."""
    step = make_step(device)
    table, num_splits = flash_mla.get_mla_metadata(step.cache_seqlens, 2 * 8, 1)
    assert table.dtype == num_splits.dtype == torch.int32
    assert table.device == num_splits.device == step.q.device
    num_sms = torch.cuda.get_device_properties(0).multi_processor_count if device == "cuda" else 1
    assert table.shape == (num_sms, 8)
    assert num_splits.shape == (4,)
    kept_table = torch.full((num_sms, 8), 99, dtype=torch.int32, device=device)
    kept_splits = torch.full((65,), 99, dtype=torch.int32, device=device)
    kept_table[: len(table)].copy_(table)
    kept_splits[: len(num_splits)].copy_(num_splits)
    dense.check(step, True, *decode(step, kept_table, kept_splits[: len(num_splits)]))
    named, _ = flash_mla.get_mla_metadata(cache_seqlens=step.cache_seqlens, num_heads_k=1, is_fp8_kvcache=False)
    assert named.shape == table.shape
    with pytest.raises(TypeError, match="cache_seqlens is a list"):
        flash_mla.get_mla_metadata(step.cache_seqlens.tolist(), 16, 1)


def test_rows_without_keys(device: str) -> None:
    step = make_step(device)
    step.cache_seqlens[1] = 0
    step.block_table[1] = -1
    step.cache_seqlens[2] = 1  # under the mask the first query token sees nothing
    out, lse = decode(step, *flash_mla.get_mla_metadata())
    assert (out[1] == 0).all()
    assert (out[2, 0] == 0).all()
    assert (lse[1] == math.inf).all()
    assert (lse[2, :, 0] == math.inf).all()
    dense.check(step, True, out, lse)
    _, lse = flash_mla.decode(step.q, step.kv_cache, step.block_table, step.cache_seqlens, causal=True)
    assert (lse[1] == -math.inf).all()


def test_softmax_scale_and_sink(device: str) -> None:
    step = make_step(device)
    sink = torch.linspace(-2, 6, 8, device=device)
    arguments = (step.q, step.kv_cache, step.block_table, step.cache_seqlens, 512)
    out, lse = flash_mla.flash_mla_with_kvcache(*arguments, None, None, 0.7, True, attn_sink=sink)
    want_out, want_lse = dense.reference(step, True, softmax_scale=0.7)
    share = torch.sigmoid(want_lse - sink[:, None]).transpose(1, 2)[..., None]
    torch.testing.assert_close(out.float(), want_out.float() * share, atol=8e-4, rtol=2.01 / 128)
    torch.testing.assert_close(lse, want_lse, atol=1e-5, rtol=1e-4)


def test_not_built_yet(device: str) -> None:
    step = make_step(device)
    some = torch.zeros(3, 2, 64, dtype=torch.int32, device=device)
    for arguments in (
        {"is_fp8_kvcache": True},
        {"indices": some},
        {"extra_k_cache": step.kv_cache},
        {"extra_indices_in_kvcache": some},
        {"topk_length": step.cache_seqlens},
        {"extra_topk_length": step.cache_seqlens},
    ):
        with pytest.raises(NotImplementedError, match="not built yet"):
            flash_mla.flash_mla_with_kvcache(
                step.q, step.kv_cache, step.block_table, step.cache_seqlens, 512, None, None, **arguments
            )
    for name in flash_mla.__all__:
        if "varlen" in name or "sparse" in name:
            with pytest.raises(NotImplementedError, match=f"{name}, .* is not built yet"):
                getattr(flash_mla, name)(step.q, step.kv_cache)
    with pytest.raises(ValueError, match="block_table and cache_seqlens must be given"):
        flash_mla.flash_mla_with_kvcache(step.q, step.kv_cache, None, None, 512, None)
