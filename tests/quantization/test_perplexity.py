"""On the demo model, measured with llama-perplexity on held-out text: more bits are better, a matrix is no worse."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ggufkit.conversion import convert
from ggufkit.llamacpp.find import find
from ggufkit.quantization.plan import QuantizeOptions
from ggufkit.quantization.quantize import quantize

pytestmark = [pytest.mark.engine, pytest.mark.slow]

DEMO = Path(__file__).parents[2] / "ggufkit" / "demo_model"
KINDS = ("Q2_K", "Q3_K_M", "Q4_K_M", "Q5_K_M", "Q6_K", "Q8_0")
MATRIX_MATTERS = ("Q2_K", "Q3_K_M", "Q4_K_M")


def perplexity(model: Path) -> float:
    command = [find().tool("llama-perplexity"), "-m", model, "-f", DEMO / "heldout.txt", "-c", "512", "-t", "2"]
    for _ in range(10):  # it sometimes loses the end of what it prints
        ran = subprocess.run(command, capture_output=True, text=True, check=True)
        if found := re.search(r"Final estimate: PPL = ([\d.]+)", ran.stdout + ran.stderr):
            return float(found[1])
    raise AssertionError("llama-perplexity lost its result ten times")


def test_perplexity_falls_with_more_bits_and_a_matrix_does_no_harm(tmp_path: Path, figure: Callable[[str, str], None]):
    source = tmp_path / "demo-F16.gguf"
    convert(DEMO, source)
    # Text that the model writes itself: nothing of the held-out text is in it.
    command = [sys.executable, "-c", "from ggufkit.cli import main; main()", "imatrix", source, "--self"]
    subprocess.run([*command, "-o", tmp_path / "imatrix.gguf", "-c", "256", "-q"], check=True)
    measured: dict[tuple[str, bool], float] = {}
    for kind in KINDS:
        for matrix in (None, tmp_path / "imatrix.gguf"):
            out = quantize(source, kind, tmp_path / "out.gguf", QuantizeOptions(imatrix=matrix)).output
            measured[kind, matrix is not None] = perplexity(out)
    figure("perplexity of the demo model, F16", f"{perplexity(source):.4f}")
    for kind in KINDS:
        without, with_matrix = measured[kind, False], measured[kind, True]
        figure(f"perplexity of the demo model, {kind}", f"{without:.4f}, with an importance matrix {with_matrix:.4f}")
    for with_matrix in (False, True):
        falling = [measured[kind, with_matrix] for kind in KINDS]
        assert falling == sorted(falling, reverse=True)
    for kind in MATRIX_MATTERS:
        assert measured[kind, True] <= measured[kind, False]
