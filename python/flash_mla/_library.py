"""The C library: include/flash_mla.h in ctypes, errors as exceptions, one context for each device."""

import ctypes
import os
import threading
from collections.abc import Callable
from ctypes import POINTER, c_char, c_char_p, c_float, c_int, c_int32, c_int64, c_size_t, c_uint32, c_void_p
from pathlib import Path

# fmla_status
INVALID_ARGUMENT = 1

# fmla_dtype; fmla_kv_format has the same numbers for the formats of one type
DTYPES = {"bfloat16": 1, "float16": 2, "float32": 3}

# Bits of flags
CAUSAL = 1
BATCH_INVARIANT = 2
EMPTY_LSE_POS_INF = 4
CHECKED = 8

PACKED = -1  # FMLA_PACKED

CPU = -1  # the number of the CPU where GPUs have theirs, as in torch.Tensor.get_device()


class Config(ctypes.Structure):
    """fmla_config"""

    _fields_ = [
        ("struct_size", c_size_t),
        ("device", c_char_p),
        ("kernel", c_char_p),
        ("num_threads", c_int32),
        ("reserved", c_int32),
    ]


class ContextInfo(ctypes.Structure):
    """fmla_context_info"""

    _fields_ = [
        ("struct_size", c_size_t),
        ("device", c_char * 32),
        ("num_threads", c_int32),
        ("num_sms", c_int32),
    ]


class DecodeParams(ctypes.Structure):
    """fmla_decode_params"""

    _fields_ = [
        ("struct_size", c_size_t),
        ("batch_size", c_int32),
        ("num_q_heads", c_int32),
        ("num_kv_heads", c_int32),
        ("head_dim_k", c_int32),
        ("head_dim_v", c_int32),
        ("head_dim_rope", c_int32),
        ("max_seqlen_q", c_int32),
        ("page_size", c_int32),
        ("total_q", c_int64),
        ("num_pages", c_int64),
        ("max_pages_per_seq", c_int32),
        ("max_seqlen_k", c_int32),
        ("softmax_scale", c_float),
        ("flags", c_uint32),
        ("max_sms", c_int32),
        ("q_dtype", c_int32),
        ("kv_format", c_int32),
        ("out_dtype", c_int32),
        ("q", c_void_p),
        ("q_rope", c_void_p),
        ("kv_cache", c_void_p),
        ("block_table", c_void_p),
        ("cache_seqlens", c_void_p),
        ("cu_seqlens_q", c_void_p),
        ("sink", c_void_p),
        ("out", c_void_p),
        ("lse", c_void_p),
        ("q_stride_batch", c_int64),
        ("q_stride_token", c_int64),
        ("q_stride_head", c_int64),
        ("q_rope_stride_batch", c_int64),
        ("q_rope_stride_token", c_int64),
        ("q_rope_stride_head", c_int64),
        ("kv_stride_page", c_int64),
        ("kv_stride_token", c_int64),
        ("kv_stride_head", c_int64),
        ("block_table_stride", c_int64),
        ("out_stride_batch", c_int64),
        ("out_stride_token", c_int64),
        ("out_stride_head", c_int64),
        ("lse_stride_batch", c_int64),
        ("lse_stride_token", c_int64),
        ("lse_stride_head", c_int64),
    ]


class MergeParams(ctypes.Structure):
    """fmla_merge_params"""

    _fields_ = [
        ("struct_size", c_size_t),
        ("num_parts", c_int32),
        ("batch_size", c_int32),
        ("seqlen_q", c_int32),
        ("num_q_heads", c_int32),
        ("head_dim_v", c_int32),
        ("flags", c_uint32),
        ("part_dtype", c_int32),
        ("out_dtype", c_int32),
        ("out_parts", c_void_p),
        ("lse_parts", c_void_p),
        ("sink", c_void_p),
        ("out", c_void_p),
        ("lse", c_void_p),
        ("out_parts_stride_part", c_int64),
        ("out_parts_stride_batch", c_int64),
        ("out_parts_stride_token", c_int64),
        ("out_parts_stride_head", c_int64),
        ("lse_parts_stride_part", c_int64),
        ("lse_parts_stride_batch", c_int64),
        ("lse_parts_stride_token", c_int64),
        ("lse_parts_stride_head", c_int64),
        ("out_stride_batch", c_int64),
        ("out_stride_token", c_int64),
        ("out_stride_head", c_int64),
        ("lse_stride_batch", c_int64),
        ("lse_stride_token", c_int64),
        ("lse_stride_head", c_int64),
    ]


_c = ctypes.CDLL(str(Path(__file__).with_name("libflashmla.so")))
_c.fmla_last_error.restype = c_char_p
_c.fmla_version_string.restype = c_char_p


def _function(name: str, *argtypes: type) -> Callable[..., int]:
    function = _c[name]
    function.argtypes = argtypes
    function.restype = c_int
    return function


_open = _function("fmla_open", POINTER(Config), POINTER(c_void_p))
_get_context_info = _function("fmla_get_context_info", c_void_p, POINTER(ContextInfo))
decode_workspace = _function("fmla_decode_workspace", c_void_p, POINTER(DecodeParams), POINTER(c_size_t))
# The struct as an address or as bytes.
decode = _function("fmla_decode", c_void_p, c_void_p, c_void_p, c_size_t, c_void_p)
merge = _function("fmla_merge", c_void_p, c_void_p, c_void_p)


def version() -> str:
    """The library's version, "major.minor.patch"."""
    text: bytes = _c.fmla_version_string()
    return text.decode()


def error(status: int) -> Exception:
    """The exception for a status other than 0, with the library's sentence of this thread."""
    sentence = _c.fmla_last_error().decode()
    return ValueError(sentence) if status == INVALID_ARGUMENT else RuntimeError(sentence)


def device_name(device: int) -> str:
    """What fmla_open takes: "cpu", "cuda:0"."""
    return "cpu" if device == CPU else f"cuda:{device}"


class _Contexts:
    """One context for each device. They are never closed: a call may be in flight on any thread."""

    def __init__(self) -> None:
        self._forget()
        os.register_at_fork(after_in_child=self._forget)  # a context's threads do not survive fork()

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._opened: dict[int, int] = {}

    def get(self, device: int) -> int:
        context = self._opened.get(device)
        if context is None:
            with self._lock:
                context = self._opened.get(device)
                if context is None:
                    context = self._opened[device] = self._open(device, None, 0)
        return context

    def replace(self, device: int, kernel: str | None, num_threads: int) -> None:
        context = self._open(device, kernel, num_threads)
        with self._lock:
            self._opened[device] = context

    @staticmethod
    def _open(device: int, kernel: str | None, num_threads: int) -> int:
        config = Config(
            struct_size=ctypes.sizeof(Config),
            device=device_name(device).encode(),
            kernel=None if kernel is None else kernel.encode(),
            num_threads=num_threads,
        )
        opened = c_void_p()
        if status := _open(config, opened):
            raise error(status)
        assert opened.value is not None
        return opened.value


_contexts = _Contexts()
context = _contexts.get
replace_context = _contexts.replace


def num_sms(device: int) -> int:
    """Multiprocessors of a GPU; 0 for the CPU."""
    info = ContextInfo(struct_size=ctypes.sizeof(ContextInfo))
    if status := _get_context_info(context(device), info):
        raise error(status)
    count: int = info.num_sms
    return count
