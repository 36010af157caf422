# The names of the package, those too that it imports on first use.
from ._native import configure as configure
from ._native import decode as decode
from ._native import merge as merge
from .flash_mla_interface import FlashMLASchedMeta as FlashMLASchedMeta
from .flash_mla_interface import flash_attn_varlen_func as flash_attn_varlen_func
from .flash_mla_interface import flash_attn_varlen_kvpacked_func as flash_attn_varlen_kvpacked_func
from .flash_mla_interface import flash_attn_varlen_qkvpacked_func as flash_attn_varlen_qkvpacked_func
from .flash_mla_interface import flash_mla_sparse_fwd as flash_mla_sparse_fwd
from .flash_mla_interface import flash_mla_with_kvcache as flash_mla_with_kvcache
from .flash_mla_interface import get_mla_metadata as get_mla_metadata

__version__: str
