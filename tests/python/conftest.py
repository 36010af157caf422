import pytest
import torch

# torch's threads spin for one another; where other work runs too, small models take ten times as long with them.
torch.set_num_threads(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="every shape of FlashMLA's dense test (most of an hour)")
    parser.addoption("--wheel", help="the wheel that is installed, to be looked at too")
    parser.addoption("--device", help="cpu or cuda; by default the GPU if there is one")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "device" in metafunc.fixturenames:
        best = "cuda" if torch.cuda.is_available() else "cpu"
        metafunc.parametrize("device", [metafunc.config.getoption("--device") or best])
