"""What only a GPU has: graphs, streams, several devices. Elsewhere these are skipped."""

import dense
import flash_mla
import pytest
import torch
from flash_mla import _torch
from torch import Tensor

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")

CASE = dense.Case(3, 2, 140, 16, 1, varlen=True, causal=True)
MANY_CYCLES = 500_000_000  # a quarter of a second and more


def decode(step: dense.Step) -> tuple[Tensor, Tensor]:
    return flash_mla.flash_mla_with_kvcache(
        step.q, step.kv_cache, step.block_table, step.cache_seqlens, 512, *flash_mla.get_mla_metadata(), causal=True
    )


def make_step(device: str = "cuda", seed: int = 0) -> dense.Step:
    return dense.make_step(CASE, torch.bfloat16, device, seed)


@pytest.mark.parametrize("older", [False, True])
def test_graph_with_other_lengths(older: bool) -> None:
    """Replays after the lengths, the table, the cache and the queries have changed in their places."""
    step = make_step()
    metadata = flash_mla.get_mla_metadata(*([step.cache_seqlens, 32, 1] if older else []))
    arguments = (step.q, step.kv_cache, step.block_table, step.cache_seqlens, 512, *metadata)
    flash_mla.flash_mla_with_kvcache(*arguments, causal=True)  # opens the device
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out, lse = flash_mla.flash_mla_with_kvcache(*arguments, causal=True)
    for seed in range(4):
        # Lengths fall: the pages of the first step are enough for each.
        other = make_step(seed=seed)
        other.cache_seqlens.clamp_(max=20 * (4 - seed))
        pages = step.kv_cache.shape[0]
        step.q.copy_(other.q)
        step.cache_seqlens.copy_(other.cache_seqlens)
        step.block_table.copy_(torch.randint(pages, step.block_table.shape, device="cuda", dtype=torch.int32))
        step.kv_cache.copy_(torch.randn_like(step.kv_cache).div_(10).clamp_(-1, 1))
        graph.replay()
        dense.check(step, True, out, lse)


@pytest.mark.parametrize("heads", [16, 32, 128])
def test_ten_thousand_replays(heads: int) -> None:
    """Each with lengths of its own, 0 among them, and the bits of a fresh call."""
    batch, pages_of_one, page_size = 8, 32, 64
    pages = batch * pages_of_one
    torch.manual_seed(heads)
    q = torch.randn(batch, 1, heads, 576, device="cuda", dtype=torch.bfloat16)
    kv_cache = torch.randn(pages, page_size, 1, 576, device="cuda", dtype=torch.bfloat16)
    table = torch.randperm(pages, device="cuda").int().view(batch, pages_of_one)
    all_lengths = torch.randint(pages_of_one * page_size + 1, (10_000, batch), device="cuda", dtype=torch.int32)
    all_lengths.mul_(torch.rand(all_lengths.shape, device="cuda") > 0.1)
    lengths = all_lengths[0].clone()
    arguments = (q, kv_cache, table, lengths, 512, *flash_mla.get_mla_metadata())
    flash_mla.flash_mla_with_kvcache(*arguments)  # opens the device
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out, lse = flash_mla.flash_mla_with_kvcache(*arguments)
    different = torch.zeros((), device="cuda", dtype=torch.int64)
    for these in all_lengths:
        lengths.copy_(these)
        graph.replay()
        fresh_out, fresh_lse = flash_mla.flash_mla_with_kvcache(*arguments)
        different += (out.view(torch.int16) != fresh_out.view(torch.int16)).sum()
        different += (lse.view(torch.int32) != fresh_lse.view(torch.int32)).sum()
    assert different.item() == 0
    assert out.abs().sum().item() > 0


def test_graph_behind_all_kinds_of_nodes() -> None:
    """Calls are launched before what is before them has ended: whatever that is, they wait for it."""
    step = make_step()
    decode(step)
    q, table, lengths = step.q.clone(), step.block_table.clone(), step.cache_seqlens.clone()
    host = torch.zeros_like(lengths, device="cpu").pin_memory()
    side = torch.cuda.Stream()
    graph = torch.cuda.CUDAGraph()
    results = []
    with torch.cuda.graph(graph):
        results.append(decode(step))  # behind nothing
        step.cache_seqlens.copy_(host, non_blocking=True)
        decode(step)  # behind a copy
        for _ in range(5):
            torch.cuda._sleep(50_000)
            step.cache_seqlens.copy_(lengths)
            results.append(decode(step))  # behind a kernel that comes late
            step.cache_seqlens.zero_()
            empty, _ = decode(step)
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                step.q.zero_()
                torch.cuda._sleep(50_000)
                step.q.copy_(q)
            step.block_table.zero_()
            torch.cuda._sleep(50_000)
            step.block_table.copy_(table)
            step.cache_seqlens.copy_(lengths)
            torch.cuda.current_stream().wait_stream(side)
            results.append(decode(step))  # behind two branches
    for _ in range(20):
        graph.replay()
    torch.cuda.synchronize()
    assert not empty.any()
    for out, lse in results:
        dense.check(step, True, out, lse)


def test_lengths_of_the_kernel_before() -> None:
    step = make_step()
    many, few = step.cache_seqlens.clone(), step.cache_seqlens.clone().clamp_(max=9)
    step.kv_cache.nan_to_num_()
    want = []
    for lengths in (many, few):
        step.cache_seqlens.copy_(lengths)
        torch.cuda.synchronize()
        want.append(decode(step)[0])
    got = []
    for i in range(400):
        if i % 20 < 10:
            torch.cuda._sleep(20_000)
        step.cache_seqlens.copy_((many, few)[i % 2])
        got.append(decode(step)[0])
    for i, out in enumerate(got):
        assert torch.equal(out, want[i % 2]), i


def test_graph_from_the_compiler() -> None:
    compiled = torch.compile(decode, fullgraph=True, mode="reduce-overhead")
    step = make_step()
    for length in (100, 37, 0):
        step.cache_seqlens.clamp_(max=length)
        step.kv_cache.nan_to_num_()
        torch.compiler.cudagraph_mark_step_begin()
        out, lse = compiled(step)
        dense.check(step, True, out, lse)


def test_current_stream() -> None:
    """Work behind other work of the stream that is current, and the host waits for neither."""
    step = make_step()
    decode(step)
    q = step.q.clone()
    stream = torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        step.q.zero_()
        torch.cuda._sleep(MANY_CYCLES)
        step.q.copy_(q)
        slept = torch.cuda.Event()
        slept.record()
        out, lse = decode(step)
        assert not slept.query(), "the call waited"
    stream.synchronize()
    dense.check(step, True, out, lse)


def test_memory_is_given_back() -> None:
    """Nothing stays allocated but the outputs, and those come from torch's allocator; after an error nothing does."""
    step = make_step()
    decode(step)
    before = torch.cuda.memory_allocated()
    out, lse = decode(step)
    held = torch.cuda.memory_allocated() - before
    rounding = 2 * 512
    assert out.nbytes + lse.nbytes <= held <= out.nbytes + lse.nbytes + rounding
    step.block_table[0, 0] = len(step.kv_cache)
    arguments = (step.q, step.kv_cache, step.block_table, step.cache_seqlens)
    before = torch.cuda.memory_allocated()
    with pytest.raises(ValueError, match=str(len(step.kv_cache))):
        flash_mla.decode(*arguments, out=out, lse=lse, checked=True)
    assert torch.cuda.memory_allocated() == before


def test_workspace_without_a_tensor() -> None:
    """This torch has it, and the bits are those of a call that had a tensor."""
    assert _torch._raw_memory() is not None
    step = make_step()
    out, lse = decode(step)
    with pytest.MonkeyPatch.context() as without:
        without.setattr(_torch, "_raw_memory", lambda: None)
        for got, want in zip(decode(step), (out, lse), strict=True):
            assert torch.equal(got, want)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU")
def test_device_that_is_not_current() -> None:
    step = make_step("cuda:1")
    assert torch.cuda.current_device() == 0
    out, lse = decode(step)
    assert out.device == lse.device == torch.device("cuda:1")
    dense.check(step, True, out, lse)
    assert torch.cuda.current_device() == 0


def test_what_a_gpu_does_not_take() -> None:
    step = make_step()
    with pytest.raises(RuntimeError, match="head_dim_k is 575, but on a GPU must be a multiple of 16"):
        flash_mla.decode(step.q[..., 1:], step.kv_cache[..., 1:], step.block_table, step.cache_seqlens)
    with pytest.raises(RuntimeError, match="on a GPU must be aligned"):
        flash_mla.decode(
            step.q[..., 1:513], step.kv_cache[..., 1:513], step.block_table, step.cache_seqlens, head_dim_v=512
        )


def test_checked_mode_names_a_bad_page() -> None:
    step = make_step()
    arguments = (step.q, step.kv_cache, step.block_table, step.cache_seqlens)
    flash_mla.decode(*arguments, checked=True)
    step.block_table[0, 0] = len(step.kv_cache)
    with pytest.raises(ValueError, match=str(len(step.kv_cache))):
        flash_mla.decode(*arguments, checked=True)
