"""The custom ops flash_mla::decode and flash_mla::merge, and decode_out and merge_out that write to given tensors.

Importing this module registers them. Memory comes from torch's allocator, work goes to the current stream of the
tensors' device, and nothing waits for it.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, library

from . import _native
from ._library import CPU
from ._plans import Plan, plan_decode, plan_merge
from ._recent import plan_of


def _fast_empty(name: str, device: str) -> Callable[..., Tensor]:
    """What inductor's code makes its tensors with, where this torch has it: it takes half the time of torch.empty."""
    fast: Callable[..., Tensor] | None = getattr(torch._C._dynamo.guards, name, None)
    return fast or (lambda shape, strides, dtype: torch.empty_strided(shape, strides, dtype=dtype, device=device))


_empty_cpu = _fast_empty("_empty_strided_cpu", "cpu")
_empty_cuda = _fast_empty("_empty_strided_cuda", "cuda")  # on the current device


def _empty_on(device: int) -> Callable[..., Tensor]:
    """A function of shape, strides and dtype."""
    if device == CPU:
        return _empty_cpu
    if torch._C._cuda_getDevice() == device:
        return _empty_cuda
    return lambda shape, strides, dtype: torch.empty_strided(shape, strides, dtype=dtype, device=f"cuda:{device}")


# The handle of a device's current stream; torch.cuda.current_stream builds an object around it each time.
_current_stream: Callable[[int], int] = getattr(torch._C, "_cuda_getCurrentRawStream", lambda device: 0)


@cache  # an allocator can be replaced before its first use, not after
def _raw_memory() -> tuple[Callable[[int, int], int], Callable[[int], None]] | None:
    """torch.cuda.caching_allocator_alloc and _delete without their checks, for the current device; None: not there.

    A tensor takes longer than its memory. Allocators that are not torch's own may have nothing but tensors.
    """
    if torch.cuda.get_allocator_backend() != "native" or "PYTORCH_NO_CUDA_MEMORY_CACHING" in os.environ:
        return None  # the latter: raw memory would be cached all the same
    alloc = getattr(torch._C, "_cuda_cudaCachingAllocator_raw_alloc", None)
    delete = getattr(torch._C, "_cuda_cudaCachingAllocator_raw_delete", None)
    return None if alloc is None or delete is None else (alloc, delete)


def _run(
    plan_call: Callable[..., Plan],
    inputs: tuple[Any, ...],
    out: Tensor | None,
    lse: Tensor | None,
    out_dtype: torch.dtype | None,
    options: tuple[Any, ...],
) -> tuple[Tensor, Tensor]:
    """Plans a call, makes the outputs that are None, and runs it. An engine waits for this code: it is kept short."""
    first: Tensor = inputs[0]
    device = first.get_device()
    plan = plan_of(plan_call, device, (*inputs, out, lse), out_dtype, options)
    empty = _empty_on(device)
    if out is None:
        out = empty(plan.out_shape, plan.out_strides, first.dtype if out_dtype is None else out_dtype)
    if lse is None:
        lse = empty(plan.lse_shape, plan.lse_strides, torch.float32)
    pointers = [t.data_ptr() for t in plan.given((*inputs, out, lse))]
    stream = 0 if device == CPU else _current_stream(device)
    if empty is _empty_cuda and (raw := _raw_memory()):
        alloc, delete = raw
        address = 0  # as of no bytes
        try:
            address = alloc(plan.workspace_bytes, stream)
            plan.run(pointers, address, stream)
        finally:
            delete(address)  # the next to have it is work behind this call: the allocator keeps it for the stream
    else:
        workspace = empty((plan.workspace_bytes,), (1,), torch.uint8)
        plan.run(pointers, workspace.data_ptr(), stream)
    return out, lse


# What is registered: the dispatcher gives a call's arguments one by one.


def _decode(*arguments: Any) -> tuple[Tensor, Tensor]:
    return _run(plan_decode, arguments[:7], None, None, arguments[7], arguments[8:])


def _decode_out(*arguments: Any) -> None:
    _run(plan_decode, arguments[:7], arguments[7], arguments[8], None, arguments[9:])


def _merge(*arguments: Any) -> tuple[Tensor, Tensor]:
    return _run(plan_merge, arguments[:3], None, None, arguments[3], arguments[4:])


def _merge_out(*arguments: Any) -> None:
    _run(plan_merge, arguments[:3], arguments[3], arguments[4], None, arguments[5:])


def _empty_outputs(like: Tensor, rows: Any, heads: Any, dim: Any, dtype: torch.dtype | None) -> tuple[Tensor, Tensor]:
    """out [*rows, heads, dim] and lse, which has the last of the rows, the tokens, behind the heads."""
    out = like.new_empty((*rows, heads, dim), dtype=dtype)
    return out, like.new_empty((*rows[:-1], heads, rows[-1]), dtype=torch.float32)


def _decode_fake(
    q: Tensor,
    q_rope: Tensor | None,
    kv_cache: Tensor,
    block_table: Tensor,
    cache_seqlens: Tensor,
    cu_seqlens_q: Tensor | None,
    sink: Tensor | None,
    out_dtype: torch.dtype | None,
    head_dim_v: int,
    *options: Any,
) -> tuple[Tensor, Tensor]:
    *rows, heads, _ = q.shape
    return _empty_outputs(q, rows, heads, head_dim_v, out_dtype)


def _merge_fake(
    out_parts: Tensor, lse_parts: Tensor, sink: Tensor | None, out_dtype: torch.dtype | None, flags: int
) -> tuple[Tensor, Tensor]:
    _, *rows, heads, dim = out_parts.shape
    return _empty_outputs(out_parts, rows, heads, dim, out_dtype)


def _nothing(*arguments: Any) -> None:
    """What an op that only writes to given tensors gives."""


_DECODE_INPUTS = (
    "Tensor q, Tensor? q_rope, Tensor kv_cache, Tensor block_table, Tensor cache_seqlens, Tensor? cu_seqlens_q, "
    "Tensor? sink"
)
_DECODE_OPTIONS = "int head_dim_v, float? softmax_scale, int flags, int? max_seqlen_q, int max_seqlen_k, int max_sms"
_MERGE_INPUTS = "Tensor out_parts, Tensor lse_parts, Tensor? sink"
_MERGE_OPTIONS = "int flags"

_library_of_ops = library.Library("flash_mla", "DEF")


def _on_one_device(fake: Callable[..., Any], names: list[str]) -> Callable[..., Any]:
    """The fake function behind the check that a plan makes: a call with a tensor on "meta" ends here."""

    def checked(*arguments: Any, **named: Any) -> Any:
        tensors = {
            name: a for name, a in (*zip(names, arguments, strict=False), *named.items()) if isinstance(a, Tensor)
        }
        first_name, first = next(iter(tensors.items()))
        for name, tensor in tensors.items():
            if tensor.device != first.device:
                raise ValueError(
                    f"{name} is on {tensor.device}, but {first_name} is on {first.device}; all must be on one device"
                )
        return fake(*arguments, **named)

    return checked


def _register(schema: str, function: Callable[..., Any], fake: Callable[..., Any]) -> Callable[..., Any]:
    # The compiler has to keep the strides that the caller's tensors have.
    _library_of_ops.define(schema, tags=(torch.Tag.pt2_compliant_tag, torch.Tag.needs_fixed_stride_order))
    name = schema.partition("(")[0]
    for backend in ("CPU", "CUDA"):
        _library_of_ops.impl(name, function, backend)
    op = getattr(torch.ops.flash_mla, name).default
    names = [argument.name for argument in op._schema.arguments]
    library.register_fake(f"flash_mla::{name}", _on_one_device(fake, names), lib=_library_of_ops)
    registered: Callable[..., Any] = op
    return registered


_is_compiling = torch.compiler.is_compiling
_num_dispatch_modes = torch._C._len_torch_dispatch_stack
_has_function_mode = torch._C._is_torch_function_mode_enabled
_tracing_state = torch._C._get_tracing_state


def _is_eager(tensor: Tensor) -> bool:
    """Whether nobody but this call wants to know of a call on this tensor: no compiler, no mode, no subclass.

    Then the dispatcher's way through the registered op, which takes as long as the rest of a call, is left out.
    """
    return (
        not _is_compiling()
        and type(tensor) is Tensor
        and (tensor.is_cuda or tensor.is_cpu)
        and not _num_dispatch_modes()
        and not _has_function_mode()
        and _tracing_state() is None
    )


@dataclass(frozen=True)
class Op:
    """An op in its two forms, functional and with given outputs. Called, it makes the outputs that are None."""

    functional: Callable[..., tuple[Tensor, Tensor]]
    to_given: Callable[..., None]
    empty_outputs: Callable[..., tuple[Tensor, Tensor]]
    plan: Callable[..., Plan]

    def __call__(
        self,
        inputs: tuple[Any, ...],
        out: Tensor | None,
        lse: Tensor | None,
        out_dtype: torch.dtype | None,
        options: tuple[Any, ...],
    ) -> tuple[Tensor, Tensor]:
        if _is_eager(inputs[0]):
            return _run(self.plan, inputs, out, lse, out_dtype, options)
        if out is None and lse is None:
            return self.functional(*inputs, out_dtype, *options)
        if out is None or lse is None:
            fresh = self.empty_outputs(*inputs, out_dtype, *options)
            out, lse = fresh[0] if out is None else out, fresh[1] if lse is None else lse
        self.to_given(*inputs, out, lse, *options)
        return out, lse


def _op(
    name: str,
    inputs: str,
    options: str,
    functional: Callable[..., Any],
    to_given: Callable[..., Any],
    empty_outputs: Callable[..., Any],
    plan: Callable[..., Plan],
) -> Op:
    new = f"{name}({inputs}, ScalarType? out_dtype, {options}) -> (Tensor out, Tensor lse)"
    given = f"{name}_out({inputs}, Tensor(a!) out, Tensor(b!) lse, {options}) -> ()"
    return Op(_register(new, functional, empty_outputs), _register(given, to_given, _nothing), empty_outputs, plan)


decode = _op("decode", _DECODE_INPUTS, _DECODE_OPTIONS, _decode, _decode_out, _decode_fake, plan_decode)
merge = _op("merge", _MERGE_INPUTS, _MERGE_OPTIONS, _merge, _merge_out, _merge_fake, plan_merge)


_native._torch_ops.update(decode=decode, merge=merge)
