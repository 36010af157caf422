"""decode and merge: all of the C API, on arrays of any library."""

import sys
from collections.abc import Callable
from typing import Any, TypeVar

from . import _arrays, _library

ArrayT = TypeVar("ArrayT")

# Filled by _torch as it is imported: an import statement takes its time in each call, and a compiler that sees this
# change within a call compiles again.
_torch_ops: dict[str, Callable[..., tuple[Any, Any]]] = {}


def _is_torch(array: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(array, torch.Tensor)


def _call(
    name: str, inputs: tuple[Any, ...], out: Any, lse: Any, out_dtype: Any, options: tuple[Any, ...]
) -> tuple[Any, Any]:
    """Makes a call on torch tensors, if its first array is one, or on arrays in main memory."""
    if out is not None and out_dtype is not None:
        raise TypeError("out and out_dtype are both given, but out has a dtype of its own")
    if _is_torch(inputs[0]):
        if not _torch_ops:
            from . import _torch  # noqa: F401
        return _torch_ops[name](inputs, out, lse, out_dtype, options)
    return _arrays.run(name, inputs, out, lse, out_dtype, options)


def configure(device: str = "cpu", *, kernel: str | None = None, num_threads: int = 0) -> None:
    """Opens a device for the calls to come, in place of how it is opened by itself at the first call.

    Args:
        device: "cpu" or "cuda:N".
        kernel: a kernel's name, of those that `flashmla info` lists: this one or RuntimeError; None: the best one
            for each call.
        num_threads: CPU threads, the caller's included; 0: as many as this process may use.
    """
    kind, _, number = device.partition(":")
    if device != "cpu" and not (kind == "cuda" and number.isdecimal()):
        raise ValueError(f'device is "{device}", but must be "cpu" or "cuda:N"')
    _library.replace_context(_library.CPU if device == "cpu" else int(number), kernel, num_threads)


def decode(
    q: ArrayT,
    kv_cache: Any,
    block_table: Any,
    cache_seqlens: Any,
    *,
    q_rope: Any = None,
    head_dim_v: int = 512,
    softmax_scale: float | None = None,
    causal: bool = False,
    cu_seqlens_q: Any = None,
    max_seqlen_q: int | None = None,
    max_seqlen_k: int = 0,
    sink: Any = None,
    out: Any = None,
    lse: Any = None,
    out_dtype: Any = None,
    empty_lse_pos_inf: bool = False,
    batch_invariant: bool = False,
    checked: bool = False,
    max_sms: int = 0,
) -> tuple[ArrayT, ArrayT]:
    """Attention of each sequence's query tokens over its keys in a paged cache, one decode step.

    out = softmax(q . K^T * softmax_scale + mask) . V, where K is `kv_cache` and V its first `head_dim_v` values.

    The arrays are all torch tensors, on one CPU or GPU; or they are in main memory and speak the array interface or
    DLPack, such as NumPy's (with ml_dtypes' bfloat16) and JAX's. In the last dimension they are contiguous; the other
    dimensions may have any stride. On a GPU bases and strides are multiples of 16 bytes, head dims multiples of 16.

    Args:
        q: [batch, seqlen_q, num_q_heads, head_dim_k], bfloat16 or float16; with `cu_seqlens_q`
            [total_q, num_q_heads, head_dim_k]. With `q_rope` without its last values, which `q_rope` has.
        kv_cache: [num_pages, page_size, num_kv_heads, head_dim_k], of q's dtype.
        block_table: [batch, max_pages_per_seq], int32: the pages of each sequence. Entries beyond its length may hold
            anything.
        cache_seqlens: [batch], int32: tokens of each sequence in the cache.
        q_rope: as q, with the values that belong behind q's in the last dimension; or None.
        head_dim_v: values of V, 1 to head_dim_k.
        softmax_scale: multiplies q . k; None: 1 / sqrt(head_dim_k).
        causal: the last query token of a sequence sees all its keys, each one before it one less.
        cu_seqlens_q: [batch + 1], int32: sequence i owns the rows cu_seqlens_q[i] to cu_seqlens_q[i + 1] - 1 of q.
            Rows behind the last get zeros.
        max_seqlen_q: with `cu_seqlens_q`, a bound on the query tokens of a sequence; None: total_q.
        max_seqlen_k: a bound on `cache_seqlens` known to the host; 0: what the table holds.
        sink: [num_q_heads], float32: scales out by exp(lse) / (exp(lse) + exp(sink)); lse stays as it is.
        out: where to write the result: [..., num_q_heads, head_dim_v], bfloat16, float16 or float32; None: a new array.
        lse: where to write the log-sum-exp, float32; None: a new array.
        out_dtype: dtype of a new out; None: q's.
        empty_lse_pos_inf: a row without keys has lse = +inf instead of -inf.
        batch_invariant: a sequence's bits do not depend on the rest of the batch.
        checked: on a GPU, look at lengths and pages on the device, wait, and raise for bad ones. A CPU always does.
        max_sms: on a GPU, use at most so many multiprocessors; 0: all.

    Returns:
        out: as q with `head_dim_v` in the last dimension; zeros for a row without keys. Of q's library (JAX, torch),
            else NumPy's.
        lse: [batch, num_q_heads, seqlen_q], or [num_q_heads, total_q]; float32, natural logarithm.

    Raises:
        TypeError: an array has a wrong dtype or is of a kind that cannot be used.
        ValueError: a device, shape, stride or value is wrong.
        RuntimeError: the device cannot serve the call, such as a GPU whose driver is too old.
    """
    flags = (
        (_library.CAUSAL if causal else 0)
        | (_library.EMPTY_LSE_POS_INF if empty_lse_pos_inf else 0)
        | (_library.BATCH_INVARIANT if batch_invariant else 0)
        | (_library.CHECKED if checked else 0)
    )
    options = (head_dim_v, softmax_scale, flags, max_seqlen_q, max_seqlen_k, max_sms)
    inputs = (q, q_rope, kv_cache, block_table, cache_seqlens, cu_seqlens_q, sink)
    return _call("decode", inputs, out, lse, out_dtype, options)


def merge(
    out_parts: ArrayT,
    lse_parts: Any,
    *,
    sink: Any = None,
    out: Any = None,
    lse: Any = None,
    out_dtype: Any = None,
    empty_lse_pos_inf: bool = False,
) -> tuple[ArrayT, ArrayT]:
    """Merges partial results over disjoint sets of keys, such as one from each rank of a context-parallel group.

    lse = log(sum_p exp(lse_p)), out = sum_p exp(lse_p - lse) out_p. The parts are what `decode` gave without a sink.
    For results with `cu_seqlens_q` take a batch of 1.

    Args:
        out_parts: [num_parts, batch, seqlen_q, num_q_heads, head_dim_v], float32, bfloat16 or float16.
        lse_parts: [num_parts, batch, num_q_heads, seqlen_q], float32; -inf for a part without keys, or +inf with
            `empty_lse_pos_inf`. The out of such a part is not read.
        sink, out, lse, out_dtype, empty_lse_pos_inf: as for `decode`; `out_dtype` None is the dtype of `out_parts`.

    Returns:
        out: [batch, seqlen_q, num_q_heads, head_dim_v].
        lse: [batch, num_q_heads, seqlen_q], float32.

    Raises:
        TypeError, ValueError, RuntimeError: as for `decode`.
    """
    flags = _library.EMPTY_LSE_POS_INF if empty_lse_pos_inf else 0
    return _call("merge", (out_parts, lse_parts, sink), out, lse, out_dtype, (flags,))
