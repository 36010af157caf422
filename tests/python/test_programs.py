"""What a user runs: the test script, the example, the wheel in a bare environment."""

import re
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import dense
import flash_mla
import numpy
import pytest
import torch

ROOT = Path(__file__).parents[2]


def run(*command: str | Path, cwd: Path | None = None) -> str:
    """The output of a command, which succeeds."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_script(dtype: str) -> None:
    lines = run(sys.executable, ROOT / "tests/test_flash_mla.py", "--dtype", dtype).splitlines()
    times = [line for line in lines if line.endswith("GB/s")]
    assert len(times) == len(lines) / 2
    assert all(" ms, " in line and " TFLOPS, " in line for line in times)


def test_example() -> None:
    assert "200 tokens, then [" in run(sys.executable, ROOT / "examples/deepseek_v3.py")


def readme_blocks() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("block", readme_blocks())
def test_readme(block: str, device: str) -> None:
    if "torch.cuda" in block and device != "cuda":
        pytest.skip("no GPU")
    step = dense.make_step(dense.Case(3, 2, 140, 8, 1, varlen=False, causal=True), torch.bfloat16, device)
    step.kv_cache.nan_to_num_()  # one block makes the sequences longer
    names = {"torch": torch, "flash_mla": flash_mla, **vars(step)}
    exec(block, names)
    assert names["out"].shape == (3, 2, 8, 512)
    if "lse" in names:
        dense.check(step, True, names["out"].to(torch.bfloat16), names["lse"])


@pytest.fixture(params=["as given", "without nvcc"])
def wheel(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    given = request.config.getoption("--wheel")
    if given is None:
        pytest.skip("no --wheel")
    if request.param == "as given":
        return Path(given)
    options = ("--quiet", "--no-deps", "--config-settings=cmake.define.FLASHMLA_CUDA=OFF", "--wheel-dir", tmp_path)
    run(sys.executable, "-m", "pip", "wheel", *options, ROOT)
    return next(tmp_path.glob("*.whl"))


NUMPY_STEP = """
import flash_mla, numpy
out, lse = flash_mla.decode(
    numpy.ones((1, 1, 1, 576), numpy.float16), numpy.ones((1, 64, 1, 576), numpy.float16),
    numpy.zeros((1, 1), numpy.int32), numpy.array([3], numpy.int32))
assert (out == 1).all()
print(flash_mla.__version__)
"""


def test_wheel(wheel: Path, tmp_path: Path) -> None:
    """It fits every Python, holds our library and Python files, and works where there is nothing but NumPy."""
    assert "-py3-none-" in wheel.name
    names = zipfile.ZipFile(wheel).namelist()
    package = {name.partition("/")[2] for name in names if name.startswith("flash_mla/")}
    assert {"libflashmla.so", "py.typed", "__init__.pyi"} <= package
    assert [name for name in package if name.rpartition(".")[2] not in ("py", "pyi", "typed")] == ["libflashmla.so"]
    assert all(name.startswith(("flash_mla/", "flash_mla-")) for name in names)

    venv.create(tmp_path / "bare", with_pip=False)
    python = tmp_path / "bare/bin/python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", wheel, f"numpy=={numpy.__version__}")
    assert run(python, "-c", NUMPY_STEP).strip() in wheel.name


def test_style() -> None:
    sources = [ROOT / name for name in ("python", "tests/python", "tests/test_flash_mla.py", "examples", "scripts")]
    for command in (["check"], ["format", "--check"]):
        run(sys.executable, "-m", "ruff", *command, "--no-cache", *sources)


TYPED = """
from typing import assert_type
from flash_mla import NAMES
from torch import Tensor

def step(q: Tensor, cache: Tensor, table: Tensor, lengths: Tensor) -> Tensor:
    assert_type(decode(q, cache, table, lengths), tuple[Tensor, Tensor])
    assert_type(flash_mla_with_kvcache(q, cache, table, lengths, 512, *get_mla_metadata()), tuple[Tensor, Tensor])
    return merge(q, lengths)[0]
"""


def test_typed(tmp_path: Path) -> None:
    """The package, and a program that uses every name of it."""
    program = tmp_path / "program.py"
    program.write_text(TYPED.replace("NAMES", ", ".join(flash_mla.__all__)))
    run(sys.executable, "-m", "mypy", ROOT / "python/flash_mla", cwd=ROOT)
    run(sys.executable, "-m", "mypy", "--strict", program, cwd=tmp_path)
