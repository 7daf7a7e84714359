"""Moments of the inputs of a model's matrices: their diagonals are what llama-imatrix adds up on the same text."""

import subprocess
from pathlib import Path

import numpy as np
import pytest

import ggufkit
from ggufkit.gguf_file.reader import read_header
from ggufkit.llamacpp.find import find
from ggufkit.llamacpp.input_moments import InputMoments
from ggufkit.quantization.imatrix_content import read_entries

pytestmark = pytest.mark.engine
LENGTH, CHUNKS = 128, 3
DEMO = Path(ggufkit.__file__).parent / "demo_model"


@pytest.mark.oracle
def test_diagonals_are_those_of_llama_imatrix(tmp_path: Path) -> None:
    model, text, matrix = tmp_path / "demo-F32.gguf", tmp_path / "text.txt", tmp_path / "imatrix.gguf"
    ggufkit.convert(DEMO, model, outtype=ggufkit.OutputType.F32)
    text.write_text((DEMO / "heldout.txt").read_text()[:4000])
    run = [find().tool("llama-imatrix"), "-m", model, "-f", text, "-o", matrix, "-c", LENGTH, "--chunks", CHUNKS]
    subprocess.run([*map(str, run), "-t", "1", "-ngl", "0", "--no-ppl"], check=True, capture_output=True)
    tokenize = [find().tool("llama-tokenize"), "-m", model, "-f", text, "--ids", "--log-disable"]
    said = subprocess.run([*map(str, tokenize)], check=True, capture_output=True, text=True).stdout
    tokens = [int(word) for word in said.strip().strip("[]").split(",")]
    entries = read_entries(matrix)
    matrices = [tensor.name for tensor in read_header(model).tensors if len(tensor.shape) > 1]
    with InputMoments(model, matrices, length=LENGTH, threads=1) as reader:
        for number in range(CHUNKS):
            reader.read(tokens[number * LENGTH : (number + 1) * LENGTH])
    assert set(reader.group_of) == set(matrices)
    for name, entry in entries.items():
        found = reader.sums[reader.group_of[name]]
        assert reader.tokens[reader.group_of[name]] == LENGTH * CHUNKS == entry.counts[0]
        assert np.allclose(np.diag(found), entry.sums[0], rtol=2e-3)
        assert np.allclose(found, found.T)
    # Matrices that read the same inputs share one sum.
    assert reader.group_of["blk.2.attn_k.weight"] == reader.group_of["blk.2.attn_q.weight"]
    assert len(reader.sums) == 4 * 4 + 1
