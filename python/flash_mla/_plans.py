"""Calls, prepared: shapes, dtypes and options of a call, checked and put into a parameter struct once.

Engines repeat calls of one signature with other pointers. What depends on the signature alone is a plan, and kept; a
call copies the plan's struct and sets the pointers.
"""

import ctypes
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from operator import itemgetter
from typing import Any, TypeAlias

from . import _library
from ._library import DTYPES, PACKED, DecodeParams, MergeParams

# Shape, strides in elements, dtype and device (as their str() has them, the dtype's in its last word).
Spec: TypeAlias = tuple[tuple[int, ...], tuple[int, ...], object, object]

# A call's arrays, in the order of the struct's pointers; the last two, out and lse, are None where the call makes them.
Specs: TypeAlias = tuple[Spec | None, ...]
DECODE_ARRAYS = ("q", "q_rope", "kv_cache", "block_table", "cache_seqlens", "cu_seqlens_q", "sink", "out", "lse")
MERGE_ARRAYS = ("out_parts", "lse_parts", "sink", "out", "lse")
_OPTIONAL = ("q_rope", "cu_seqlens_q", "sink", "out", "lse")

# More signatures than the batch sizes of an engine times its kinds of layers make.
_MAX_PLANS = 4096


# As fmla_decode.
_Call: TypeAlias = Callable[[ctypes.c_void_p, bytes, int, ctypes.c_size_t, int], int]


@dataclass(frozen=True)
class Plan:
    """A call but for its pointers, and what it needs: shapes of the outputs, bytes of workspace."""

    call: _Call
    context: ctypes.c_void_p
    given: Callable[[Sequence[Any]], tuple[Any, ...]]  # of all the call's arrays those that it has, outputs included
    before: bytes  # the struct up to its pointers
    pack: Callable[..., bytes]  # of the pointers to those arrays, NULL for the others
    after: bytes
    workspace_bytes: int
    c_workspace_bytes: ctypes.c_size_t  # the same, converted once
    out_shape: tuple[int, ...]
    out_strides: tuple[int, ...]
    lse_shape: tuple[int, ...]
    lse_strides: tuple[int, ...]

    def run(self, pointers: Sequence[int], workspace: int, stream: int) -> None:
        """Makes the call; on a GPU that enqueues the work. The pointers are those of the given arrays."""
        params = self.before + self.pack(*pointers) + self.after
        if status := self.call(self.context, params, workspace, self.c_workspace_bytes, stream):
            raise _library.error(status)


def packed_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The strides in elements of an array without gaps."""
    strides: tuple[int, ...] = ()
    stride = 1
    for extent in reversed(shape):
        strides = (stride, *strides)
        stride *= max(extent, 1)
    return strides


@dataclass(frozen=True)
class _Array:
    """An argument under its name, with the checks that name it."""

    name: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: str
    device: str

    def check_dtype(self, *allowed: str) -> None:
        if self.dtype not in allowed:
            raise TypeError(f"{self.name} is {self.dtype}, but must be {' or '.join(allowed)}")

    def check_rank(self, dims: str) -> None:
        if len(self.shape) != len(dims.split(", ")):
            raise ValueError(f"{self.name} has shape {list(self.shape)}, but must be [{dims}]")

    def check_shape(self, dims: str, shape: tuple[int, ...]) -> None:
        if self.shape != shape:
            raise ValueError(f"{self.name} has shape {list(self.shape)}, but must be [{dims}], here {list(shape)}")

    def check_last_contiguous(self) -> None:
        if self.shape[-1] > 1 and self.strides[-1] != 1:
            raise ValueError(f"{self.name} has stride {self.strides[-1]} in its last dimension, but must have 1")

    def stride_fields(self, prefix: str, dims: str) -> dict[str, int]:
        """The struct's fields for the strides of the leading dimensions."""
        names = dims.split(", ")
        return {f"{prefix}_stride_{name}": stride for name, stride in zip(names, self.strides, strict=False)}


def _name_of(dtype: object) -> str:
    return str(dtype).rpartition(".")[2]


def _arrays(names: Sequence[str], specs: Specs) -> dict[str, _Array]:
    """The arrays that are given, under their names; all on one device."""
    for name, spec in zip(names, specs, strict=True):
        if spec is None and name not in _OPTIONAL:
            raise TypeError(f"{name} is None, but must be an array")
    arrays = {
        name: _Array(name, tuple(spec[0]), tuple(spec[1]), _name_of(spec[2]), str(spec[3]))
        for name, spec in zip(names, specs, strict=True)
        if spec is not None
    }
    first = arrays[names[0]]
    for array in arrays.values():
        if array.device != first.device:
            raise ValueError(
                f"{array.name} is on {array.device}, but {first.name} is on {first.device}; all must be on one device"
            )
    return arrays


def _fill(params: ctypes.Structure, fields: dict[str, int | float]) -> None:
    """Sets the struct's fields; a stride that is not given is FMLA_PACKED."""
    packed: dict[str, int | float] = {name: PACKED for name, *_ in params._fields_ if "_stride" in name}
    for name, value in (packed | fields | {"struct_size": ctypes.sizeof(params)}).items():
        setattr(params, name, value)
        if isinstance(value, int) and getattr(params, name) != value:  # cut to the width of the field
            raise ValueError(f"{name} is {value}, which is out of range")


def _plan(
    call: _Call,
    context: int,
    params: ctypes.Structure,
    names: Sequence[str],
    arrays: dict[str, _Array],
    workspace_bytes: int,
    out_shape: tuple[int, ...],
    lse_shape: tuple[int, ...],
) -> Plan:
    content = bytes(params)
    start = getattr(type(params), names[0]).offset
    given = [name in arrays or name in ("out", "lse") for name in names]
    null = f"{struct.calcsize('P')}x"
    pointers = struct.Struct("".join("P" if is_given else null for is_given in given))
    end = start + pointers.size
    return Plan(
        call,
        ctypes.c_void_p(context),
        itemgetter(*[i for i, is_given in enumerate(given) if is_given]),
        content[:start],
        pointers.pack,
        content[end:],
        workspace_bytes,
        ctypes.c_size_t(workspace_bytes),
        out_shape,
        packed_strides(out_shape),
        lse_shape,
        packed_strides(lse_shape),
    )


def _merge(
    context: ctypes.c_void_p, params: bytes, workspace: int, workspace_bytes: ctypes.c_size_t, stream: int
) -> int:
    return _library.merge(context, params, stream)


def _check_outputs(
    arrays: dict[str, _Array], dims: str, out_shape: tuple[int, ...], lse_dims: str, lse_shape: tuple[int, ...]
) -> None:
    if out := arrays.get("out"):
        out.check_dtype(*DTYPES)
        out.check_shape(dims, out_shape)
        out.check_last_contiguous()
    if lse := arrays.get("lse"):
        lse.check_dtype("float32")
        lse.check_shape(lse_dims, lse_shape)


def _check_sink(arrays: dict[str, _Array], heads: int) -> None:
    if sink := arrays.get("sink"):
        sink.check_dtype("float32")
        sink.check_shape("num_q_heads", (heads,))
        sink.check_last_contiguous()


def _out_dtype(arrays: dict[str, _Array], asked: object) -> int:
    name = arrays["out"].dtype if "out" in arrays else _name_of(asked)
    if name not in DTYPES:
        raise TypeError(f"out_dtype is {name}, but must be {' or '.join(DTYPES)}")
    return DTYPES[name]


def _check_decode_dtypes(arrays: dict[str, _Array]) -> None:
    q = arrays["q"]
    q.check_dtype("bfloat16", "float16")
    for name in ("q_rope", "kv_cache"):
        if name in arrays:
            arrays[name].check_dtype(q.dtype)
    for name in ("block_table", "cache_seqlens", "cu_seqlens_q"):
        if name in arrays:
            arrays[name].check_dtype("int32")


@lru_cache(_MAX_PLANS)
def plan_decode(
    context: int,
    specs: Specs,
    out_dtype: object,
    options: tuple[int, float | None, int, int | None, int, int],
) -> Plan:
    """Checks what the C library cannot see, that the arrays fit each other, and leaves the rest to it.

    The options: head_dim_v, softmax_scale, flags, max_seqlen_q, max_seqlen_k, max_sms.
    """
    head_dim_v, softmax_scale, flags, max_seqlen_q, max_seqlen_k, max_sms = options
    arrays = _arrays(DECODE_ARRAYS, specs)
    q, kv_cache, block_table, seqlens = (arrays[name] for name in ("q", "kv_cache", "block_table", "cache_seqlens"))
    q_rope, cu_seqlens = arrays.get("q_rope"), arrays.get("cu_seqlens_q")
    _check_decode_dtypes(arrays)

    rows_dims, lse_dims = ("token, head", "head, token") if cu_seqlens else ("batch, token, head", "batch, head, token")
    q.check_rank(f"{rows_dims}, head_dim")
    kv_cache.check_rank("page, token, head, head_dim_k")
    block_table.check_rank("batch, page")
    seqlens.check_rank("batch")
    *rows, heads, head_dim = q.shape
    num_pages, page_size, num_kv_heads, head_dim_k = kv_cache.shape
    batch = seqlens.shape[0] if cu_seqlens else rows[0]
    max_pages = block_table.shape[1]
    seqlens.check_shape("batch", (batch,))
    block_table.check_shape("batch, page", (batch, max_pages))
    head_dim_rope = 0
    if q_rope:
        q_rope.check_rank(f"{rows_dims}, head_dim_rope")
        head_dim_rope = q_rope.shape[-1]
        q_rope.check_shape(f"{rows_dims}, head_dim_rope", (*rows, heads, head_dim_rope))
    if head_dim + head_dim_rope != head_dim_k:
        given = f"q and q_rope have {head_dim} + {head_dim_rope}" if q_rope else f"q has {head_dim}"
        raise ValueError(f"{given} values a head, but kv_cache has {head_dim_k}; these must be the same")
    longest = rows[-1]
    if cu_seqlens:
        cu_seqlens.check_shape("batch + 1", (batch + 1,))
    elif max_seqlen_q not in (None, longest):
        raise ValueError(f"max_seqlen_q is {max_seqlen_q}, but q has {longest} tokens of each sequence")
    out_shape = (*rows, heads, head_dim_v)
    lse_shape = (*rows[:-1], heads, longest)
    _check_outputs(arrays, f"{rows_dims}, head_dim_v", out_shape, lse_dims, lse_shape)
    _check_sink(arrays, heads)
    for name in DECODE_ARRAYS[:-2]:
        if name in arrays:
            arrays[name].check_last_contiguous()

    fields: dict[str, int | float] = {
        "batch_size": batch,
        "num_q_heads": heads,
        "num_kv_heads": num_kv_heads,
        "head_dim_k": head_dim_k,
        "head_dim_v": head_dim_v,
        "head_dim_rope": head_dim_rope,
        "max_seqlen_q": longest if max_seqlen_q is None else max_seqlen_q,
        "page_size": page_size,
        "total_q": longest if cu_seqlens else 0,
        "num_pages": num_pages,
        "max_pages_per_seq": max_pages,
        "max_seqlen_k": max_seqlen_k,
        "softmax_scale": head_dim_k**-0.5 if softmax_scale is None else softmax_scale,
        "flags": flags,
        "max_sms": max_sms,
        "q_dtype": DTYPES[q.dtype],
        "kv_format": DTYPES[kv_cache.dtype],
        "out_dtype": _out_dtype(arrays, out_dtype),
        "block_table_stride": block_table.strides[0],
    }
    fields |= kv_cache.stride_fields("kv", "page, token, head")
    for name, dims in (("q", rows_dims), ("q_rope", rows_dims), ("out", rows_dims), ("lse", lse_dims)):
        if name in arrays:
            fields |= arrays[name].stride_fields(name, dims)
    # Of the pointers, the size of the workspace depends on whether these are NULL.
    fields |= {name: 1 for name in ("q_rope", "cu_seqlens_q") if name in arrays}
    params = DecodeParams()
    _fill(params, fields)
    size = ctypes.c_size_t()
    if status := _library.decode_workspace(context, params, size):
        raise _library.error(status)
    return _plan(_library.decode, context, params, DECODE_ARRAYS, arrays, size.value, out_shape, lse_shape)


@lru_cache(_MAX_PLANS)
def plan_merge(context: int, specs: Specs, out_dtype: object, options: tuple[int]) -> Plan:
    """Checks that the arrays fit each other, and leaves the rest to the C library. The option: flags."""
    (flags,) = options
    arrays = _arrays(MERGE_ARRAYS, specs)
    out_parts, lse_parts = arrays["out_parts"], arrays["lse_parts"]
    out_parts.check_dtype(*DTYPES)
    lse_parts.check_dtype("float32")
    dims, lse_dims = "batch, token, head", "batch, head, token"
    out_parts.check_rank(f"part, {dims}, head_dim_v")
    num_parts, batch, seqlen_q, heads, head_dim_v = out_parts.shape
    lse_parts.check_shape(f"part, {lse_dims}", (num_parts, batch, heads, seqlen_q))
    out_shape, lse_shape = (batch, seqlen_q, heads, head_dim_v), (batch, heads, seqlen_q)
    _check_outputs(arrays, f"{dims}, head_dim_v", out_shape, lse_dims, lse_shape)
    _check_sink(arrays, heads)
    out_parts.check_last_contiguous()

    fields: dict[str, int | float] = {
        "num_parts": num_parts,
        "batch_size": batch,
        "seqlen_q": seqlen_q,
        "num_q_heads": heads,
        "head_dim_v": head_dim_v,
        "flags": flags,
        "part_dtype": DTYPES[out_parts.dtype],
        "out_dtype": _out_dtype(arrays, out_dtype),
    }
    fields |= out_parts.stride_fields("out_parts", f"part, {dims}")
    fields |= lse_parts.stride_fields("lse_parts", f"part, {lse_dims}")
    for name, own_dims in (("out", dims), ("lse", lse_dims)):
        if name in arrays:
            fields |= arrays[name].stride_fields(name, own_dims)
    params = MergeParams()
    _fill(params, fields)

    return _plan(_merge, context, params, MERGE_ARRAYS, arrays, 0, out_shape, lse_shape)
