"""Arrays of any library as pointer, shape, strides, dtype and device, through the array interface or DLPack."""

import ctypes
import sys
from collections.abc import Callable
from ctypes import POINTER, c_int32, c_int64, c_uint8, c_uint16, c_uint64, c_void_p
from dataclasses import dataclass
from typing import Any

from . import _library
from ._plans import DECODE_ARRAYS, MERGE_ARRAYS, Spec, packed_strides, plan_decode, plan_merge


@dataclass(frozen=True)
class View:
    """An array's memory. The pointer is good as long as the view is."""

    pointer: int
    spec: Spec
    owner: object


class _DLTensor(ctypes.Structure):
    """DLTensor, with the fields of DLDevice and DLDataType in place."""

    _fields_ = [
        ("data", c_void_p),
        ("device_type", c_int32),
        ("device_id", c_int32),
        ("ndim", c_int32),
        ("code", c_uint8),
        ("bits", c_uint8),
        ("lanes", c_uint16),
        ("shape", POINTER(c_int64)),
        ("strides", POINTER(c_int64)),
        ("byte_offset", c_uint64),
    ]


# The dtypes that some argument takes, by the interfaces' codes. bfloat16 is a raw type to the array interface.
_DLPACK_DTYPES = {(0, 32): "int32", (2, 16): "float16", (2, 32): "float32", (4, 16): "bfloat16"}
_TYPESTR_DTYPES = {"<i4": "int32", "<f2": "float16", "<f4": "float32"}
_DLPACK_CPU, _DLPACK_CUDA = 1, 2

_capsule_pointer: Callable[..., int] = ctypes.pythonapi.PyCapsule_GetPointer
ctypes.pythonapi.PyCapsule_GetPointer.restype = c_void_p
ctypes.pythonapi.PyCapsule_GetPointer.argtypes = [ctypes.py_object, ctypes.c_char_p]


def _view_interface(name: str, array: Any) -> View:
    interface = array.__array_interface__
    typestr: str = interface["typestr"]
    dtype = _TYPESTR_DTYPES.get(typestr) or str(getattr(array, "dtype", typestr))
    shape: tuple[int, ...] = tuple(interface["shape"])
    strides = interface.get("strides")
    if strides is None:
        strides = packed_strides(shape)
    else:
        item_bytes = int(typestr[2:])
        if any(stride % item_bytes for stride in strides):
            raise ValueError(f"{name} has strides of {strides} bytes, but they must be multiples of {item_bytes}")
        strides = tuple(stride // item_bytes for stride in strides)
    return View(interface["data"][0], (shape, strides, dtype, "cpu"), array)


def _view_dlpack(name: str, array: Any) -> View:
    device_type, device_id = (int(number) for number in array.__dlpack_device__())
    if device_type != _DLPACK_CPU:
        where = f"cuda:{device_id}" if device_type == _DLPACK_CUDA else f"a device of DLPack's type {device_type}"
        raise TypeError(f"{name} is on {where}, but arrays on GPUs must be torch tensors")
    if hasattr(array, "block_until_ready"):  # JAX computes in the background
        array.block_until_ready()
    capsule = array.__dlpack__()
    tensor = _DLTensor.from_address(_capsule_pointer(capsule, b"dltensor"))
    shape = tuple(tensor.shape[: tensor.ndim])
    strides = tuple(tensor.strides[: tensor.ndim]) if tensor.strides else packed_strides(shape)
    dtype = _DLPACK_DTYPES.get((tensor.code, tensor.bits)) if tensor.lanes == 1 else None
    dtype = dtype or str(getattr(array, "dtype", "of an unknown type"))
    # The capsule stays unconsumed: its destructor lets the array go.
    return View((tensor.data or 0) + tensor.byte_offset, (shape, strides, dtype, "cpu"), capsule)


def view(name: str, array: Any) -> View:
    """The memory of argument `name`. TypeError if it speaks neither protocol or lies on a GPU."""
    if hasattr(array, "__array_interface__"):
        return _view_interface(name, array)
    if hasattr(array, "__dlpack__"):
        return _view_dlpack(name, array)
    raise TypeError(f"{name} is a {type(array).__name__}, which speaks neither the array interface nor DLPack")


def view_output(name: str, array: Any) -> View:
    """The memory of an array to write to: DLPack does not say whether that is allowed, so it has to be NumPy's way."""
    interface = getattr(array, "__array_interface__", None)
    if interface is None or interface["data"][1]:
        raise TypeError(f"{name} is a {type(array).__name__} that cannot be written to; a NumPy array can")
    return _view_interface(name, array)


def _numpy_dtype(name: str) -> Any:
    import numpy

    if name == "bfloat16":
        import ml_dtypes

        return numpy.dtype(ml_dtypes.bfloat16)
    return numpy.dtype(name)


def _like(first: Any, array: Any) -> Any:
    """A new NumPy array as JAX's, if the call's first array is JAX's."""
    jax = sys.modules.get("jax")
    return jax.numpy.asarray(array) if jax is not None and isinstance(first, jax.Array) else array


def run(
    call: str, inputs: tuple[Any, ...], out: Any, lse: Any, out_dtype: Any, options: tuple[Any, ...]
) -> tuple[Any, Any]:
    """Makes a call on the CPU. Outputs that are not given are new arrays: JAX's if the first input is, else NumPy's."""
    import numpy

    plan_call, names = (plan_decode, DECODE_ARRAYS) if call == "decode" else (plan_merge, MERGE_ARRAYS)
    first = view(names[0], inputs[0])
    rest = [None if array is None else view(name, array) for name, array in zip(names[1:-2], inputs[1:], strict=True)]
    given = [None if array is None else view_output(name, array) for name, array in (("out", out), ("lse", lse))]
    views = [first, *rest, *given]
    specs = tuple(None if v is None else v.spec for v in views)
    dtype = first.spec[2] if out_dtype is None else numpy.dtype(out_dtype)
    plan = plan_call(_library.context(_library.CPU), specs, str(dtype), options)

    new_out = numpy.empty(plan.out_shape, _numpy_dtype(str(dtype))) if out is None else None
    new_lse = numpy.empty(plan.lse_shape, numpy.float32) if lse is None else None
    pointers = [0 if v is None else v.pointer for v in views]
    if new_out is not None:
        pointers[-2] = new_out.ctypes.data
    if new_lse is not None:
        pointers[-1] = new_lse.ctypes.data
    workspace = numpy.empty(plan.workspace_bytes, numpy.uint8)
    plan.run(plan.given(pointers), workspace.ctypes.data, 0)
    out = out if new_out is None else _like(inputs[0], new_out)
    lse = lse if new_lse is None else _like(inputs[0], new_lse)
    return out, lse
