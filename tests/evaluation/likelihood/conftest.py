"""The demo model at several types, and its held-out text, for those who measure."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from ggufkit.conversion import OutputType, convert
from ggufkit.quantization.quantize import quantize

DEMO = Path(__file__).parents[3] / "ggufkit" / "demo_model"


@pytest.fixture(scope="session")
def demo_models(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    folder = tmp_path_factory.mktemp("demo")
    f16 = folder / "demo-F16.gguf"
    convert(DEMO, f16, outtype=OutputType.F16)
    kinds = ("Q8_0", "Q4_K_M", "Q2_K")
    return {"F16": f16} | {kind: quantize(f16, kind, folder / f"demo-{kind}.gguf").output for kind in kinds}


@pytest.fixture(scope="session")
def held_out() -> Path:
    return DEMO / "heldout.txt"
