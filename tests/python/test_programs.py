"""What a user runs: the test script, the example, the wheel in a bare environment."""

import re
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import dense
import flash_mla
import pytest
import torch

ROOT = Path(__file__).parents[2]


def run(*command: str | Path) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


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


def test_wheel(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """It fits every Python, holds the library and Python files, and needs nothing else to be imported."""
    wheel = request.config.getoption("--wheel")
    if wheel is None:
        pytest.skip("no --wheel")
    assert "-py3-none-" in wheel
    names = zipfile.ZipFile(wheel).namelist()
    package = {name.partition("/")[2] for name in names if name.startswith("flash_mla/")}
    assert {"libflashmla.so", "py.typed", "__init__.pyi"} <= package
    assert {name.rpartition(".")[2] for name in package} == {"py", "pyi", "so", "typed"}

    venv.create(tmp_path / "bare", with_pip=False)
    python = tmp_path / "bare/bin/python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-index", wheel)
    assert run(python, "-c", "import flash_mla; print(flash_mla.__version__)").strip() in wheel
