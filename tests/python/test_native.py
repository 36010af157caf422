"""decode and merge on arrays of every kind, against an FP64 softmax written out here."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flash_mla
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import torch

jax.config.update("jax_platforms", "cpu")

HEADS, DIM, DIM_V, ROPE = 6, 96, 64, 32
FP32_OUT = 4e-3  # some kernels hold probabilities in BF16


@dataclass
class Step:
    """A call's NumPy arrays. Pages of 10 tokens; two KV heads."""

    q: np.ndarray
    kv_cache: np.ndarray
    block_table: np.ndarray
    cache_seqlens: np.ndarray

    def arguments(self, convert: Any = lambda array: array) -> list[Any]:
        return [convert(array) for array in (self.q, self.kv_cache, self.block_table, self.cache_seqlens)]


def make_step(dtype: Any = ml_dtypes.bfloat16, seqlen_q: int = 2) -> Step:
    rng = np.random.default_rng(0)
    table = rng.permutation(12).reshape(3, 4).astype(np.int32)
    table[2] = -1
    return Step(
        rng.standard_normal((3, seqlen_q, HEADS, DIM)).astype(dtype),
        rng.standard_normal((12, 10, 2, DIM)).astype(dtype),
        table,
        np.array([37, 10, 0], np.int32),
    )


def exact(step: Step, causal: bool = False, sink: Any = None, scale: float = DIM**-0.5) -> tuple[Any, Any]:
    """out and lse in FP64."""
    batch, seqlen_q, heads, _ = step.q.shape
    out = np.zeros((batch, seqlen_q, heads, DIM_V))
    lse = np.full((batch, heads, seqlen_q), -np.inf)
    for i, length in enumerate(step.cache_seqlens):
        keys = step.kv_cache[step.block_table[i]].reshape(-1, 2, DIM)[:length].astype(np.float64)
        for t in range(seqlen_q):
            seen = keys[: length - seqlen_q + 1 + t] if causal else keys
            for head in range(heads):
                if len(seen) == 0:
                    continue
                key = seen[:, head // (heads // 2)]
                weights = np.exp(key @ step.q[i, t, head].astype(np.float64) * scale)
                lse[i, head, t] = np.log(weights.sum())
                share = 1 if sink is None else weights.sum() / (weights.sum() + np.exp(sink[head]))
                out[i, t, head] = weights @ key[:, :DIM_V] / weights.sum() * share
    return out, lse


def check(got: tuple[Any, Any], want: tuple[Any, Any], tolerance: float = 1e-2) -> None:
    np.testing.assert_allclose(np.asarray(got[0]).astype(np.float64), want[0], rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(np.asarray(got[1]).astype(np.float64), want[1], rtol=1e-5, atol=1e-5)


def to_torch(array: np.ndarray) -> torch.Tensor:
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


class OnlyDLPack:
    """An array of a library that speaks DLPack and nothing else."""

    def __init__(self, array: np.ndarray) -> None:
        self.tensor = to_torch(array)

    def __dlpack__(self) -> Any:
        return self.tensor.__dlpack__()

    def __dlpack_device__(self) -> Any:
        return self.tensor.__dlpack_device__()


@pytest.mark.parametrize("convert", [np.asarray, jnp.asarray, to_torch, OnlyDLPack])
@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16])
@pytest.mark.parametrize("causal", [False, True])
def test_libraries(convert: Any, dtype: Any, causal: bool) -> None:
    step = make_step(dtype)
    out, lse = flash_mla.decode(*step.arguments(convert), head_dim_v=DIM_V, causal=causal)
    if convert is to_torch:
        assert isinstance(out, torch.Tensor)
        out = out.float()
    elif convert is jnp.asarray:
        assert isinstance(out, jax.Array)
        assert isinstance(lse, jax.Array)
    else:
        assert isinstance(out, np.ndarray)
        assert out.dtype == dtype
    check((out, lse), exact(step, causal))


def test_jax_inside_jit() -> None:
    step = make_step()
    q, cache, table, lengths = step.arguments(jnp.asarray)
    shapes = (jax.ShapeDtypeStruct((3, 2, HEADS, DIM_V), q.dtype), jax.ShapeDtypeStruct((3, HEADS, 2), jnp.float32))

    @jax.jit
    def decode(q: Any) -> Any:
        return jax.pure_callback(
            lambda *arrays: flash_mla.decode(*map(np.asarray, arrays), head_dim_v=DIM_V),
            shapes,
            q,
            cache,
            table,
            lengths,
        )

    check(decode(q), exact(step))


@pytest.mark.parametrize("convert", [np.asarray, to_torch])
def test_options(convert: Any) -> None:
    step = make_step()
    sink = np.linspace(-1, 3, HEADS).astype(np.float32)
    want = exact(step, sink=sink, scale=0.2)
    options: dict[str, Any] = {"head_dim_v": DIM_V, "softmax_scale": 0.2, "sink": convert(sink)}
    out_dtype = torch.float32 if convert is to_torch else "float32"
    q, *others = step.arguments(convert)
    check(flash_mla.decode(q, *others, **options, out_dtype=out_dtype), want, FP32_OUT)

    # q in two parts, both slices of a larger array
    nope, rope = q[..., : DIM - ROPE], q[..., DIM - ROPE :]
    check(flash_mla.decode(nope, *others, q_rope=rope, **options, out_dtype=out_dtype), want, FP32_OUT)

    # results into strided places
    out = convert(np.full((3, 2, 2 * HEADS, DIM_V), 7, np.float32))
    lse = convert(np.full((3, 2, HEADS), 7, np.float32))
    transposed = lse.swapaxes(1, 2)
    given = flash_mla.decode(q, *others, **options, out=out[:, :, ::2], lse=transposed)
    assert given[1] is transposed
    check((out[:, :, ::2], transposed), want, FP32_OUT)
    assert (np.asarray(out[:, :, 1::2]) == 7).all()

    # one of them alone
    out[:] = lse[:] = 7
    check((out[:, :, ::2], flash_mla.decode(q, *others, **options, out=out[:, :, ::2])[1]), want, FP32_OUT)
    check((flash_mla.decode(q, *others, **options, lse=transposed, out_dtype=out_dtype)[0], transposed), want, FP32_OUT)

    # the modes
    lse = flash_mla.decode(q, *others, **options, empty_lse_pos_inf=True)[1]
    assert (np.asarray(lse)[2] == np.inf).all()
    check(
        flash_mla.decode(
            q, *others, **options, batch_invariant=True, checked=True, max_seqlen_k=37, out_dtype=out_dtype
        ),
        want,
        FP32_OUT,
    )


@pytest.mark.parametrize("convert", [np.asarray, jnp.asarray, to_torch])
def test_query_lengths(convert: Any) -> None:
    """cu_seqlens_q: sequence 0 has both query tokens, sequence 1 one, sequence 2 none, and a row is over."""
    step = make_step()
    out, lse = exact(step, causal=True)
    single = exact(Step(step.q[:, :1], step.kv_cache, step.block_table, step.cache_seqlens), causal=True)
    q = np.concatenate([step.q[0], step.q[1, :1], step.q[2, :1]])
    cu_seqlens_q = convert(np.array([0, 2, 3, 3], np.int32))
    others = step.arguments(convert)[1:]
    for max_seqlen_q in (None, 2):
        got = flash_mla.decode(
            convert(q), *others, head_dim_v=DIM_V, causal=True, cu_seqlens_q=cu_seqlens_q, max_seqlen_q=max_seqlen_q
        )
        rows = got[0].float() if convert is to_torch else got[0]
        empty = np.zeros((1, HEADS, DIM_V)), np.full((HEADS, 1), -np.inf)
        want_out = np.concatenate([out[0], single[0][1], empty[0]])
        check((rows, got[1]), (want_out, np.concatenate([lse[0], single[1][1], empty[1]], axis=1)))


@pytest.mark.parametrize("convert", [np.asarray, jnp.asarray, to_torch])
def test_merge(convert: Any) -> None:
    step = make_step()
    sink = np.linspace(-1, 3, HEADS).astype(np.float32)
    parts = []
    for first, last in ((0, 1), (1, 4)):
        lengths = np.clip(step.cache_seqlens - 10 * first, 0, 10 * (last - first)).astype(np.int32)
        part = Step(step.q, step.kv_cache, np.ascontiguousarray(step.block_table[:, first:last]), lengths)
        parts.append(flash_mla.decode(*part.arguments(), head_dim_v=DIM_V, out_dtype=np.float32))
    out_parts, lse_parts = (convert(np.stack(arrays)) for arrays in zip(*parts, strict=True))
    check(flash_mla.merge(out_parts, lse_parts, sink=convert(sink)), exact(step, sink=sink), FP32_OUT)
    out, lse = convert(np.zeros((3, 2, HEADS, DIM_V), np.float16)), convert(np.zeros((3, HEADS, 2), np.float32))
    if convert is not jnp.asarray:
        flash_mla.merge(out_parts, lse_parts, out=out, lse=lse)
        check((out, lse), exact(step))


def test_keeps_alive() -> None:
    """Arrays that only the call holds, from a library that frees what it can."""
    step = make_step()
    for _ in range(20):
        got = flash_mla.decode(*step.arguments(lambda array: OnlyDLPack(array.copy())), head_dim_v=DIM_V)
        check(got, exact(step))


WRONG: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"q": np.zeros((3, 2, HEADS, DIM), np.float32)}, TypeError, "q is float32, but must be bfloat16 or float16"),
    ({"q": np.zeros((3, 2, HEADS, DIM), np.float16)}, TypeError, "kv_cache is bfloat16, but must be float16"),
    ({"q": [1, 2]}, TypeError, "q is a list, which speaks neither"),
    ({"kv_cache": None}, TypeError, "kv_cache is None"),
    ({"block_table": np.zeros((3, 4), np.int64)}, TypeError, "block_table is int64, but must be int32"),
    (
        {"cache_seqlens": np.zeros(4, np.int32)},
        ValueError,
        r"cache_seqlens has shape \[4\], but must be \[batch\], here \[3\]",
    ),
    ({"cache_seqlens": np.zeros((3, 2), np.int32)[:, :1]}, ValueError, r"cache_seqlens has shape \[3, 1\]"),
    ({"cache_seqlens": np.zeros(6, np.int32)[::2]}, ValueError, "cache_seqlens has stride 2 in its last dimension"),
    ({"block_table": np.zeros((3, 8), np.int32)[:, ::2]}, ValueError, "block_table has stride 2"),
    ({"kv_cache": np.zeros((12, 10, DIM), ml_dtypes.bfloat16)}, ValueError, r"kv_cache has shape \[12, 10, 96\]"),
    (
        {"kv_cache": np.zeros((12, 10, 2, 64), ml_dtypes.bfloat16)},
        ValueError,
        "q has 96 values a head, but kv_cache has 64",
    ),
    ({"head_dim_v": 97}, ValueError, "head_dim_v is 97"),
    ({"head_dim_v": 2**40}, ValueError, "head_dim_v is 1099511627776, which is out of range"),
    ({"softmax_scale": -1.0}, ValueError, "softmax_scale"),
    ({"max_seqlen_q": 3}, ValueError, "max_seqlen_q is 3, but q has 2"),
    ({"sink": np.zeros(HEADS)}, TypeError, "sink is float64, but must be float32"),
    ({"sink": np.zeros(5, np.float32)}, ValueError, r"sink has shape \[5\]"),
    ({"out": np.zeros((3, 2, HEADS, DIM), np.float32)}, ValueError, r"out has shape \[3, 2, 6, 96\]"),
    ({"out": jnp.zeros((3, 2, HEADS, DIM_V))}, TypeError, "out is a .* that cannot be written to"),
    ({"out": np.zeros((3, 2, HEADS, DIM_V)), "out_dtype": "float32"}, TypeError, "out and out_dtype are both given"),
    ({"lse": np.zeros((3, HEADS, 2), np.float16)}, TypeError, "lse is float16"),
    ({"out_dtype": "float64"}, TypeError, "out_dtype is float64"),
    ({"cache_seqlens": np.array([37, 41, 0], np.int32)}, ValueError, "41"),
    ({"cache_seqlens": np.array([37, -1, 0], np.int32)}, ValueError, "-1"),
    ({"block_table": np.full((3, 4), 12, np.int32)}, ValueError, "12"),
]


@pytest.mark.parametrize(("changes", "error", "words"), WRONG)
def test_errors(changes: dict[str, Any], error: type[Exception], words: str) -> None:
    arguments: dict[str, Any] = {**vars(make_step()), "head_dim_v": DIM_V, **changes}
    with pytest.raises(error, match=words):
        flash_mla.decode(**arguments)


def test_configure() -> None:
    step = make_step()
    try:
        flash_mla.configure("cpu", kernel="portable", num_threads=1)
        check(flash_mla.decode(*step.arguments(), head_dim_v=DIM_V), exact(step))
        with pytest.raises(RuntimeError, match="nonesuch"):
            flash_mla.configure("cpu", kernel="nonesuch")
        with pytest.raises(ValueError, match="num_threads"):
            flash_mla.configure("cpu", num_threads=-1)
        with pytest.raises(ValueError, match="device is"):
            flash_mla.configure("tpu")
    finally:
        flash_mla.configure("cpu")


@pytest.mark.parametrize("version", [None, 11080])
def test_no_usable_gpu(version: int | None, tmp_path: Path) -> None:
    """Without a driver, and with one that is too old for the device code: the library's sentence."""
    driver = "none"
    if version:
        source = tmp_path / "cuda.c"
        source.write_text(f"int cuDriverGetVersion(int *version) {{ *version = {version}; return 0; }}")
        driver = str(source.with_suffix(".so"))
        subprocess.run(["cc", "-shared", "-fPIC", source, "-o", driver], check=True)
    done = subprocess.run(
        [sys.executable, "-c", "import flash_mla; flash_mla.configure('cuda:0')"],
        env={**os.environ, "FMLA_CUDA_DRIVER": driver},
        capture_output=True,
        text=True,
    )
    last = done.stderr.splitlines()[-1]
    assert last.startswith('RuntimeError: device is "cuda:0", but ')
    if "made without nvcc" not in last:
        assert "needed is an NVIDIA driver for CUDA 1" in last
        assert version is None or "its driver is for CUDA 11.8" in last


@pytest.mark.filterwarnings("ignore:.*fork")
def test_after_fork() -> None:
    """A forked child has none of the threads of its parent's context."""
    step = make_step()
    flash_mla.decode(*step.arguments(), head_dim_v=DIM_V)
    child = os.fork()
    if child == 0:
        try:
            check(flash_mla.decode(*step.arguments(), head_dim_v=DIM_V), exact(step))
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0


def test_without_torch() -> None:
    """Where torch is not installed NumPy's arrays work, and FlashMLA's calls say what they need."""
    program = """
import sys
sys.modules["torch"] = None
import flash_mla, numpy
out, lse = flash_mla.decode(
    numpy.ones((1, 1, 1, 96), numpy.float16), numpy.ones((1, 4, 1, 96), numpy.float16),
    numpy.zeros((1, 1), numpy.int32), numpy.array([3], numpy.int32), head_dim_v=64)
assert (out == 1).all()
assert "flash_mla_with_kvcache" in dir(flash_mla)
try:
    flash_mla.flash_mla_with_kvcache
except ImportError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "needs PyTorch, which is not installed" in done.stdout


def test_torch_stays_unloaded() -> None:
    program = """
import sys, flash_mla
assert "torch" not in sys.modules
flash_mla.get_mla_metadata
assert "torch" in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True)
