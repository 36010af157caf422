"""The structs and constants of the binding are those of the header."""

import ctypes
import json
import subprocess
from pathlib import Path

import flash_mla
import pytest
from flash_mla import _library

ROOT = Path(__file__).parents[2]
STRUCTS = {
    "fmla_config": _library.Config,
    "fmla_context_info": _library.ContextInfo,
    "fmla_decode_params": _library.DecodeParams,
    "fmla_merge_params": _library.MergeParams,
}
CONSTANTS = {
    "FMLA_ERROR_INVALID_ARGUMENT": _library.INVALID_ARGUMENT,
    "FMLA_DTYPE_BF16": _library.DTYPES["bfloat16"],
    "FMLA_DTYPE_FP16": _library.DTYPES["float16"],
    "FMLA_DTYPE_FP32": _library.DTYPES["float32"],
    "FMLA_KV_BF16": _library.DTYPES["bfloat16"],
    "FMLA_KV_FP16": _library.DTYPES["float16"],
    "FMLA_CAUSAL": _library.CAUSAL,
    "FMLA_BATCH_INVARIANT": _library.BATCH_INVARIANT,
    "FMLA_EMPTY_LSE_POS_INF": _library.EMPTY_LSE_POS_INF,
    "FMLA_CHECKED": _library.CHECKED,
    "FMLA_PACKED": _library.PACKED,
}


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    """Sizes, offsets and constants as the C compiler has them."""
    expressions = list(CONSTANTS)
    for name, struct in STRUCTS.items():
        expressions.append(f"sizeof({name})")
        expressions += [f"offsetof({name}, {field})" for field, *_ in struct._fields_]
        expressions += [f"sizeof((({name} *)0)->{field})" for field, *_ in struct._fields_]
    prints = "\n".join(f'printf("\\"{text}\\": %lld,\\n", (long long)({text}));' for text in expressions)
    source = tmp_path_factory.mktemp("layout") / "layout.c"
    source.write_text(
        f'#include <flash_mla.h>\n#include <stdio.h>\nint main(void) {{ puts("{{"); {prints} puts("\\"\\": 0}}"); }}'
    )
    program = source.with_suffix("")
    subprocess.run(["cc", "-std=c11", f"-I{ROOT / 'include'}", source, "-o", program], check=True)
    values: dict[str, int] = json.loads(subprocess.run([program], check=True, capture_output=True).stdout)
    return values


def test_structs(compiled: dict[str, int]) -> None:
    for name, struct in STRUCTS.items():
        assert ctypes.sizeof(struct) == compiled[f"sizeof({name})"], name
        for field, *_ in struct._fields_:
            descriptor = getattr(struct, field)
            assert descriptor.offset == compiled[f"offsetof({name}, {field})"], (name, field)
            assert descriptor.size == compiled[f"sizeof((({name} *)0)->{field})"], (name, field)


def test_constants(compiled: dict[str, int]) -> None:
    assert {name: compiled[name] for name in CONSTANTS} == CONSTANTS


def test_version() -> None:
    assert flash_mla.__version__ == flash_mla._library.version()
    header = (ROOT / "include/flash_mla.h").read_text()
    for part, number in zip(("MAJOR", "MINOR", "PATCH"), flash_mla.__version__.split("."), strict=True):
        assert f"#define FMLA_VERSION_{part} {number}\n" in header
