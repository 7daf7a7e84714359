"""Merged weights against W + scale B A computed here, and against llama-export-lora."""

import json
import subprocess
from pathlib import Path

import gguf
import handmade_checkpoint
import lora_adapters
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ggufkit.conversion import OutputType, convert
from ggufkit.conversion.adapters import convert_lora, merge_lora
from ggufkit.errors import CheckpointError, GgufFileError, OutputError, UsageError
from ggufkit.llamacpp.find import find

MODULES = (*lora_adapters.ATTENTION_AND_MLP, "lm_head", "embed_tokens")


def expected(base: dict[str, np.ndarray], adapter: Path, scale: float) -> dict[str, np.ndarray]:
    factors = load_file(adapter / "adapter_model.safetensors")
    merged = {name: weight.astype(np.float64) for name, weight in base.items()}
    for name in merged:
        path = f"base_model.model.{name.removesuffix('.weight')}"
        if f"{path}.lora_A.weight" in factors:
            merged[name] += (
                scale * factors[f"{path}.lora_B.weight"].astype(np.float64) @ factors[f"{path}.lora_A.weight"]
            )
        elif f"{path}.lora_embedding_A" in factors:
            product = factors[f"{path}.lora_embedding_B"].astype(np.float64) @ factors[f"{path}.lora_embedding_A"]
            merged[name] += scale * product.T
    return merged


@pytest.mark.parametrize("dtype", ["<f4", "<f2"])
def test_into_a_sharded_checkpoint(dtype: str, tmp_path: Path) -> None:
    base = tmp_path / "base"
    weights = {name: weight.astype(dtype) for name, weight in handmade_checkpoint.tensors().items()}
    shards = handmade_checkpoint.shard(base, parts=3)
    for shard in shards:
        save_file({name: weights[name] for name in load_file(shard)}, shard)
    adapter = lora_adapters.write(base, tmp_path / "adapter", MODULES)
    result = merge_lora(base, adapter, tmp_path / "merged")
    assert result.merged == 2 + 7 * handmade_checkpoint.LAYERS
    assert {path.name for path in (tmp_path / "merged").iterdir()} == {
        *(path.name for path in base.iterdir()),
        "ggufkit_merge.json",
    }
    merged = {name: tensor for shard in shards for name, tensor in load_file(tmp_path / "merged" / shard.name).items()}
    wanted = expected(weights, adapter, 2.0)
    for name, tensor in merged.items():
        assert tensor.dtype == dtype
        np.testing.assert_array_equal(tensor, wanted[name].astype(np.float32).astype(dtype), err_msg=name)
    record = json.loads((tmp_path / "merged" / "ggufkit_merge.json").read_text())
    assert record["base_fingerprint"].startswith("sha256:")
    convert(tmp_path / "merged", tmp_path / "merged.gguf")


def test_whole_tensors_take_the_place_of_the_base_s(tmp_path: Path) -> None:
    base = handmade_checkpoint.write(tmp_path / "base")
    head = np.full((handmade_checkpoint.VOCABULARY, handmade_checkpoint.HIDDEN), 0.5, np.float32)
    whole = {"base_model.model.lm_head.modules_to_save.weight": head}
    adapter = lora_adapters.write(base, tmp_path / "adapter", ("q_proj",), whole=whole)
    assert merge_lora(base, adapter, tmp_path / "merged").replaced == 1
    assert (load_file(tmp_path / "merged" / "model.safetensors")["lm_head.weight"] == 0.5).all()
    larger = {"base_model.model.lm_head.modules_to_save.weight": np.concatenate([head, head])}
    adapter = lora_adapters.write(base, tmp_path / "larger", ("q_proj",), whole=larger)
    with pytest.raises(CheckpointError, match="of shape") as caught:
        merge_lora(base, adapter, tmp_path / "other")
    assert "tokens added" in str(caught.value.hint)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "base", "larger", "merged"]


@pytest.mark.oracle
@pytest.mark.engine
@pytest.mark.parametrize("outtype", ["f32", "f16", "bf16"])
def test_into_gguf(outtype: str, tmp_path: Path) -> None:
    base = handmade_checkpoint.write(tmp_path / "base")
    adapter = lora_adapters.write(base, tmp_path / "adapter", MODULES)
    model, factors, ours = (tmp_path / f"{name}.gguf" for name in ("model", "factors", "ours"))
    convert(base, model, outtype=OutputType(outtype))
    convert_lora(adapter, base, factors)
    result = merge_lora(model, factors, ours)
    assert result.warnings == ()
    merge_lora(base, adapter, tmp_path / "merged")
    convert(tmp_path / "merged", tmp_path / "converted.gguf", outtype=OutputType(outtype))
    mine = {tensor.name: tensor for tensor in gguf.GGUFReader(ours).tensors}
    other = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / "converted.gguf").tensors}
    assert {name: t.tensor_type for name, t in mine.items()} == {name: t.tensor_type for name, t in other.items()}
    step = {"f32": 1e-6, "f16": 2**-10, "bf16": 2**-7}[outtype]  # the base was rounded before as well
    for name, tensor in mine.items():
        a, b = (gguf.quants.dequantize(t.data, t.tensor_type) for t in (tensor, other[name]))
        np.testing.assert_allclose(a, b, rtol=2 * step, atol=2 * step * np.abs(b).max(), err_msg=name)
    theirs = tmp_path / "theirs.gguf"
    command = [find().tool("llama-export-lora"), "-m", model, "--lora", factors, "-o", theirs]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-2000:]
    for tensor in gguf.GGUFReader(theirs).tensors:
        a, b = (gguf.quants.dequantize(t.data, t.tensor_type) for t in (mine[tensor.name], tensor))
        np.testing.assert_allclose(a, b, rtol=2 * step, atol=step * np.abs(b).max(), err_msg=tensor.name)


def test_another_base_is_refused(tmp_path: Path) -> None:
    base, other = handmade_checkpoint.write(tmp_path / "base"), tmp_path / "other"
    weights = {name: weight + np.float32(0.01) for name, weight in handmade_checkpoint.tensors().items()}
    handmade_checkpoint.write(other, weights)
    adapter = lora_adapters.write(base, tmp_path / "adapter")
    model, factors, merged = (tmp_path / f"{name}.gguf" for name in ("model", "factors", "merged"))
    convert(other, model)
    convert_lora(adapter, base, factors)
    with pytest.raises(CheckpointError, match="another base"):
        merge_lora(model, factors, merged)
    assert not merged.exists()
    assert merge_lora(model, factors, merged, other_base=True).warnings


def test_what_cannot_be_merged_is_refused(tmp_path: Path) -> None:
    base = handmade_checkpoint.write(tmp_path / "base")
    adapter = lora_adapters.write(base, tmp_path / "adapter")
    model, factors, out = (tmp_path / f"{name}.gguf" for name in ("model", "factors", "out"))
    convert(base, model, outtype=OutputType.Q8_0)
    convert_lora(adapter, base, factors)
    with pytest.raises(GgufFileError, match=r"quantized \(Q8_0\)"):
        merge_lora(model, factors, out)
    with pytest.raises(UsageError, match="is a folder"):
        merge_lora(model, adapter, out)
    with pytest.raises(GgufFileError, match="no LoRA adapter"):
        merge_lora(model, model, out)
    with pytest.raises(OutputError, match="exists"):
        merge_lora(base, adapter, adapter)
    with pytest.raises(UsageError, match="lies in the base"):
        merge_lora(base, adapter, base / "merged")
