"""Multi-head Latent Attention (MLA) decoding from a paged KV cache, on CPUs and GPUs.

`decode` and `merge` take torch tensors, NumPy and JAX arrays, whatever speaks the array interface or DLPack.
FlashMLA's calls, `get_mla_metadata` and `flash_mla_with_kvcache`, take torch tensors; using them imports torch.
"""

import importlib
import sys

from . import _library
from ._native import configure, decode, merge

__version__ = _library.version()

_UPSTREAM = (
    "FlashMLASchedMeta",
    "flash_attn_varlen_func",
    "flash_attn_varlen_kvpacked_func",
    "flash_attn_varlen_qkvpacked_func",
    "flash_mla_sparse_fwd",
    "flash_mla_with_kvcache",
    "get_mla_metadata",
)
__all__ = ["configure", "decode", "merge", *_UPSTREAM]

if sys.modules.get("torch") is not None:
    importlib.import_module("flash_mla._torch")  # registers torch.ops.flash_mla


def __getattr__(name: str) -> object:
    if name not in _UPSTREAM:
        raise AttributeError(f"module 'flash_mla' has no attribute '{name}'")
    try:
        interface = importlib.import_module("flash_mla.flash_mla_interface")
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise ImportError(f"flash_mla.{name} needs PyTorch, which is not installed") from error
    value = globals()[name] = getattr(interface, name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
