"""Plans of recent calls on torch tensors, found again without a look at each tensor's shape and strides in Python."""

from collections.abc import Callable
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, TypeAlias

import torch
from torch import Tensor

from ._library import context
from ._plans import DECODE_ARRAYS, MERGE_ARRAYS, Plan, plan_decode

_Guards: TypeAlias = Callable[..., Any]


def _find_guards() -> _Guards | None:
    """torch.compile's own check that tensors have the types, shapes, strides, dtypes and devices that others had.

    All tensors of a call take it as long as one tensor's shape and strides take in Python. It is no public part of
    torch: None where it is not there, or not as it is used here.
    """

    def empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(shape, dtype=dtype, device="cpu")

    tensor, others = empty(3, 5), (empty(3, 4), empty(5, 3).T, empty(3, 5, dtype=torch.int32))
    try:
        guards: _Guards = torch._C._dynamo.guards.TensorGuards
        match = guards(tensor, dynamic_dims_sizes=[[3, 5]], dynamic_dims_strides=[[5, 1]]).check
        return guards if match(empty(3, 5)) and not any(match(other) for other in others) else None
    except (AttributeError, TypeError, RuntimeError):
        return None


_TensorGuards = _find_guards()

# Plan function, context, dtype of a new out, options, which tensors are None.
_Head: TypeAlias = tuple[Any, Any, Any, Any, list[bool]]
_Tensors: TypeAlias = tuple[Tensor | None, ...]


@dataclass(frozen=True, slots=True)
class _Call:
    head: _Head
    given: Callable[[_Tensors], tuple[Tensor, ...]]  # of a call's tensors those that are not None
    match: Callable[..., bool]  # of them
    plan: Plan


# The last one first: the layers of a model repeat a call, so only the first of them has to look further.
_MAX_CALLS = 32
_calls: tuple[_Call, ...] = ()


def _put_first(call: _Call) -> None:
    global _calls
    _calls = (call, *[other for other in _calls if other is not call][: _MAX_CALLS - 1])


def _remember(head: _Head, tensors: _Tensors, plan: Plan) -> None:
    if _TensorGuards is None:
        return
    given = itemgetter(*[i for i, is_none in enumerate(head[-1]) if not is_none])  # two at least
    sizes = [list(t.shape) for t in given(tensors)]
    strides = [list(t.stride()) for t in given(tensors)]
    match = _TensorGuards(*given(tensors), dynamic_dims_sizes=sizes, dynamic_dims_strides=strides).check
    if match(*given(tensors)):  # no call is like one that has a tensor twice
        _put_first(_Call(head, given, match, plan))


def _make(head: _Head, tensors: _Tensors) -> Plan:
    plan_call, opened, out_dtype, options, _ = head
    names = DECODE_ARRAYS if plan_call is plan_decode else MERGE_ARRAYS
    for name, tensor in zip(names, tensors, strict=True):
        if not isinstance(tensor, Tensor | None):
            raise TypeError(f"{name} is a {type(tensor).__name__}, but must be a torch.Tensor, as the others")
    specs = tuple(None if t is None else (t.shape, t.stride(), t.dtype, t.device) for t in tensors)
    first: Any = tensors[0]
    plan: Plan = plan_call(opened, specs, first.dtype if out_dtype is None else out_dtype, options)
    _remember(head, tensors, plan)
    return plan


def plan_of(
    plan_call: Callable[..., Plan],
    device: int,
    tensors: _Tensors,
    out_dtype: torch.dtype | None,
    options: tuple[Any, ...],
) -> Plan:
    """The plan of a call, made only if no recent one was alike. An engine waits for this code: it is kept short."""
    head = (plan_call, context(device), out_dtype, options, [t is None for t in tensors])
    for call in _calls:
        if call.head == head and call.match(*call.given(tensors)):
            if call is not _calls[0]:
                _put_first(call)
            return call.plan
    return _make(head, tensors)
