"""The table of quantization types: complete, true, and forgiving about spelling."""

import subprocess
from pathlib import Path

import gguf
import numpy as np
import pytest

from ggufkit.errors import UsageError
from ggufkit.llamacpp import quantize as tool
from ggufkit.llamacpp.find import find
from ggufkit.quantization.types import ALIASES, TYPES, find_type, quantization_type, tensor_type

ONLY_COPIES = "COPY"  # not a type, and `cp` does it better


@pytest.fixture(scope="session")
def llama_8b(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The header of a Llama-3.1-8B with a hole of 16 GB behind it: all that a dry run reads."""
    path = tmp_path_factory.mktemp("skeleton") / "llama-8b.gguf"
    hidden, feed_forward, kv, vocabulary = 4096, 14336, 1024, 128256
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(32)
    writer.add_context_length(131072)
    writer.add_embedding_length(hidden)
    writer.add_feed_forward_length(feed_forward)
    writer.add_head_count(32)
    writer.add_head_count_kv(8)
    writer.add_layer_norm_rms_eps(1e-5)
    shapes = {"token_embd": (vocabulary, hidden), "output_norm": (hidden,), "output": (vocabulary, hidden)}
    for block in range(32):
        shapes |= {
            f"blk.{block}.{name}": shape
            for name, shape in {
                "attn_norm": (hidden,),
                "attn_q": (hidden, hidden),
                "attn_k": (kv, hidden),
                "attn_v": (kv, hidden),
                "attn_output": (hidden, hidden),
                "ffn_norm": (hidden,),
                "ffn_gate": (feed_forward, hidden),
                "ffn_up": (feed_forward, hidden),
                "ffn_down": (hidden, feed_forward),
            }.items()
        }
    for name, shape in shapes.items():
        dtype = np.dtype(np.float16 if len(shape) > 1 else np.float32)
        writer.add_tensor_info(f"{name}.weight", shape, dtype, int(np.prod(shape)) * dtype.itemsize)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    data = sum(-(-info.nbytes // 32) * 32 for info in writer.tensors[0].values())
    writer.close()
    with path.open("r+b") as file:
        file.truncate(-(-path.stat().st_size // 32) * 32 + data)
    return path


@pytest.mark.engine
def test_the_table_is_the_list_of_the_program():
    program = subprocess.run([find().tool("llama-quantize"), "--help"], capture_output=True, text=True, check=False)
    lines = tool.parse_types(program.stdout)
    aliases = {line.name for line in lines if line.description.startswith("alias for")}
    theirs = {line.name: line.number for line in lines if line.name not in {*aliases, ONLY_COPIES}}
    assert theirs == {kind.name: kind.number for kind in TYPES}
    for line in lines:
        if line.name in aliases:
            assert line.description == f"alias for {ALIASES[line.name]}"


@pytest.mark.engine
@pytest.mark.oracle
@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.name)
def test_bits_and_needs_are_those_of_a_llama_8b(kind, llama_8b: Path):
    report = tool.quantize(tool.Options(source=llama_8b, output=None, type=kind.name, threads=1))
    bits = weights = 0.0
    for line in report.tensors:
        name = tensor_type(line.to or line.was)
        count = line.shape[0] * line.shape[1]
        bits, weights = bits + count * name.bits_per_weight, weights + count
    assert round(bits / weights, 2) == kind.bits_per_weight
    assert report.needs_imatrix == kind.needs_imatrix
    matrices = [line.to or line.was for line in report.tensors if "ffn_gate" in line.name]
    if kind.name not in {"IQ2_M", "IQ3_XS", "MXFP4_MOE"}:  # these give most matrices a type other than their base
        assert kind.base.name.lower() in {matrix.lower() for matrix in matrices}


def test_names_are_unique_and_sorted_by_size():
    assert len({kind.name for kind in TYPES}) == len({kind.number for kind in TYPES}) == len(TYPES)
    sizes = [kind.bits_per_weight for kind in TYPES]
    assert sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize("name", ["Q4_K_M", "q4_k_m", "Q4_k_M", " q4_k_m ", "q4-k-m", "Q4_K", "q4_k"])
def test_any_spelling_of_a_name_is_found(name: str):
    assert quantization_type(name).name == "Q4_K_M"


def test_a_typo_is_answered_with_the_nearest_names():
    with pytest.raises(UsageError, match="unknown quantization type 'Q4KM'") as caught:
        quantization_type("Q4KM")
    assert caught.value.hint is not None
    assert "Q4_K_M" in caught.value.hint
    with pytest.raises(UsageError) as caught:
        quantization_type("huge")
    assert caught.value.hint is not None
    assert "--list" in caught.value.hint
    assert find_type("huge") is None


def test_tensor_types_are_not_recipes():
    assert tensor_type("q6_k").name == "Q6_K"
    with pytest.raises(UsageError) as caught:
        tensor_type("Q4_K_M")
    assert caught.value.hint == "did you mean Q4_K?"
    for useless in ("I32", "Q8_K", "F64", "huge"):
        with pytest.raises(UsageError):
            tensor_type(useless)
