"""Weights that others quantized, in architectures of every kind: their own blocks where rows stay whole."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import dequantized_gguf
import numpy as np
import pytest
import quantized_by_hand as by_hand
import stored_tensors
import tokenless
from gguf import GGUFReader

from ggufkit.conversion import Keep, OutputType
from ggufkit.errors import UnmappedTensorError
from ggufkit.inference.engine import Engine
from ggufkit.llamacpp.find import find_source

ORACLE = Path(__file__).parents[1] / "oracles" / "llama_cpp_convert.py"
TOKENS = [5, 17, 301, 44, 90, 211, 8, 63]
# What llama.cpp's converter is asked about: name -> recipe, format, output type.
UPSTREAM = {
    "gpt-oss": ("gpt-oss-plain", by_hand.mxfp4, by_hand.MXFP4, "bf16"),
    "nvfp4": ("llama", by_hand.nvfp4, by_hand.NVFP4, "bf16"),
    "fp8": ("deepseek-v3", by_hand.fp8, by_hand.FP8, "f32"),
}


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the checkpoints of UPSTREAM, and what llama.cpp's converter makes of them: NAME/ and NAME.gguf."""
    root = tmp_path_factory.mktemp("kept")
    jobs = []
    for name, (recipe, quantize, told, outtype) in UPSTREAM.items():
        by_hand.checkpoint(recipe, root / name, quantize, told)
        source = ["--source", str(find_source())]
        jobs.append([str(root / name), str(root / f"{name}.gguf"), "--outtype", outtype, "--no-vocab", *source])
    (root / "jobs.json").write_text(json.dumps(jobs))
    ran = subprocess.run([sys.executable, ORACLE, "--jobs", root / "jobs.json"], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-4000:]
    return root


def tensors(path: Path) -> dict[str, tuple[str, bytes]]:
    return {tensor.name: (tensor.tensor_type.name, tensor.data.tobytes()) for tensor in GGUFReader(path).tensors}


def floats(path: Path) -> dict[str, np.ndarray]:
    return {tensor.name: dequantized_gguf.values(tensor) for tensor in GGUFReader(path).tensors}


def kept(folder: Path, outtype: OutputType = OutputType.SOURCE) -> dict[str, int]:
    with tokenless.planned(folder, outtype) as plan:
        return plan.kept


@pytest.mark.oracle
@pytest.mark.parametrize("name", UPSTREAM)
def test_every_tensor_is_as_by_llama_cpp(name: str, upstream: Path) -> None:
    """The blocks of MXFP4 and NVFP4, what lies beside them, and eight-bit floats with blocks at the edge."""
    ours = tensors(tokenless.convert(upstream / name, OutputType(UPSTREAM[name][3])))
    theirs = tensors(upstream / f"{name}.gguf")
    assert {
        key: (ours.get(key, ("none",))[0], theirs.get(key, ("none",))[0]) for key in ours.keys() ^ theirs.keys()
    } == {}
    assert [key for key in ours if ours[key] != theirs[key]] == []


@pytest.mark.parametrize("recipe", ["mixtral", "llama", "phi3", "qwen3moe", "deepseek-v3"])
def test_integers_of_every_kind_of_layer(recipe: str, tmp_path: Path) -> None:
    """Experts are stacked, heads turned, fused matrices split; MLA's transposed halves are not kept, and the same."""
    folder = by_hand.checkpoint(recipe, tmp_path / "model", by_hand.int4, by_hand.INT4)
    source, whole = (tokenless.convert(folder, outtype) for outtype in (OutputType.SOURCE, OutputType.F32))
    found, expected = floats(source), floats(whole)
    types = Counter(kind for kind, _ in tensors(source).values())
    assert found.keys() == expected.keys()
    for name in found:
        assert found[name].shape == expected[name].shape
        np.testing.assert_allclose(found[name], expected[name], rtol=2.0**-8 if "_b.w" in name else 0, err_msg=name)
    assert types["Q4_0"] >= 7
    with tokenless.planned(folder, OutputType.SOURCE) as plan:
        assert plan.checkpoint.quantization
        left = plan.checkpoint.quantization.weights - sum(plan.kept.values())
    assert left == (3 if recipe == "deepseek-v3" else 0), "only kv_b_proj of each block is taken apart"


def test_what_is_kept_by_which_output_type(tmp_path: Path) -> None:
    folder = by_hand.checkpoint("gpt-oss", tmp_path / "floats", by_hand.mxfp4, by_hand.MXFP4)
    for outtype in (OutputType.F16, OutputType.BF16, OutputType.Q8_0, OutputType.AUTO, OutputType.SOURCE):
        assert kept(folder, outtype) == {"MXFP4": 6}
    assert kept(folder, OutputType.F32) == {}
    folder = by_hand.checkpoint("llama", tmp_path / "integers", by_hand.int4, by_hand.INT4)
    assert kept(folder, OutputType.F16) == {}
    assert kept(folder) == {"Q4_0": 21}
    assert OutputType.F32.keeps is Keep.NONE


def test_biases_that_add_nothing_are_left_out(tmp_path: Path) -> None:
    """AutoGPTQ gave one to every layer that it quantized; llama.cpp has none where the architecture has none."""
    folder = by_hand.checkpoint("gemma2", tmp_path / "model", by_hand.int4, by_hand.INT4)
    module = "model.layers.0.mlp.down_proj"
    found = stored_tensors.read(folder / "model.safetensors")
    rows = found[f"{module}.weight_packed"][1][0]
    for value in (0, 1):
        found[f"{module}.bias"] = stored_tensors.stored(np.full(rows, value, np.float16))
        stored_tensors.write(folder / "model.safetensors", found)
        if value:
            with pytest.raises(UnmappedTensorError, match=r"down_proj\.bias' becomes blk\.0\.ffn_down\.bias"):
                kept(folder)
        else:
            assert kept(folder)["Q4_0"] >= 7


def test_scales_beside_weights_are_not_left_to_graphs_that_ignore_them(tmp_path: Path) -> None:
    """llama.cpp loads them for every architecture, and multiplies by them in few: in the others nothing is kept."""
    folder = by_hand.checkpoint("phi3", tmp_path / "ignored", by_hand.nvfp4, by_hand.NVFP4)
    assert kept(folder) == {}
    folder = by_hand.checkpoint("llama", tmp_path / "applied", by_hand.nvfp4, by_hand.NVFP4)
    assert kept(folder) == {"NVFP4": 18}, "all but ffn_down, whose rows are no multiple of 64"


@pytest.mark.engine
@pytest.mark.parametrize(
    ("recipe", "quantize", "told"),
    [
        ("llama", by_hand.nvfp4, by_hand.NVFP4),
        ("qwen3moe", by_hand.nvfp4, by_hand.NVFP4),
        ("gpt-oss-plain", by_hand.mxfp4, by_hand.MXFP4),
        ("mixtral", by_hand.int4, by_hand.INT4),
    ],
)
def test_llama_cpp_computes_with_what_is_kept(
    recipe: str, quantize: by_hand.Quantizer, told: dict[str, str], tmp_path: Path
) -> None:
    """Up to what it rounds activations to: eight bits beside such weights, which a scale left out would dwarf."""
    folder = by_hand.checkpoint(recipe, tmp_path / "model", quantize, told)
    logits = []
    for outtype in (OutputType.F32, OutputType.SOURCE):
        with Engine.open(tokenless.convert(folder, outtype), tokenless.EXACT) as engine:
            logits.append(engine.logits(TOKENS))
    assert np.linalg.norm(logits[1] - logits[0]) < 0.08 * np.linalg.norm(logits[0])
