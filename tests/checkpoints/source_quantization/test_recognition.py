"""Whose tensors they are: by config.json where it fits them, else by the tensors; and never a guess."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import stored_tensors
from stored_tensors import in_memory, stored

from ggufkit.checkpoints import open_checkpoint
from ggufkit.checkpoints.source_quantization import undo_quantization
from ggufkit.errors import CheckpointError

PLAIN = {"a.weight": stored(np.ones((4, 128), np.float32)), "a.bias": stored(np.ones(4, np.float32))}
FP8 = {"a.weight": stored(np.ones((4, 128), np.uint8), "F8_E4M3"), "a.weight_scale": stored(np.float32([1.0]))}
INT4 = {
    "b.weight_packed": stored(np.zeros((4, 16), np.int32)),
    "b.weight_scale": stored(np.ones((4, 4), np.float32)),
    "b.weight_shape": stored(np.array([4, 128])),
}


def found(tensors: stored_tensors.Stored, told: Any) -> Any:
    config = {} if told is None else {"quantization_config": told}
    return undo_quantization(config, in_memory(tensors))[1]


def test_a_plain_checkpoint_is_left_alone() -> None:
    tensors = in_memory(PLAIN)
    assert undo_quantization({}, tensors) == (tensors, None)


def test_what_the_config_does_not_tell_the_tensors_do() -> None:
    assert found(FP8, None).scheme == "FP8"
    assert found(INT4, None).scheme == "compressed-tensors"
    assert found(INT4, {"bits": 4}).remarks == (
        "config.json says nothing (quant_method), but the tensors are compressed-tensors's",
    )


def test_tensors_are_believed_more_than_the_config() -> None:
    for told in ({"quant_method": "gptq"}, {"quant_method": "mystery"}):
        said = found(FP8, told)
        assert said.scheme == "FP8"
        assert said.remarks == (f"config.json says {told['quant_method']} (quant_method), but the tensors are FP8's",)


def test_a_config_of_quantized_weights_that_are_plain() -> None:
    said = found(PLAIN, {"quant_method": "fp8"})
    assert (said.weights, said.dropped) == (0, {})
    assert said.remarks == ("config.json says fp8 (quant_method), but no tensor is quantized: all are taken as plain",)


def test_the_text_model_of_a_wrapper_may_say_it() -> None:
    outer = {"text_config": {"quantization_config": {"quant_method": "compressed-tensors"}}}
    assert undo_quantization(outer, in_memory(INT4))[1].scheme == "compressed-tensors"


def test_what_nobody_knows_is_refused_by_its_name() -> None:
    with pytest.raises(CheckpointError, match=r"'mystery' is not known; known are .*awq.*compressed-tensors.*gptq"):
        found(PLAIN, {"quant_method": "mystery"})
    strange = {"a.qqq": stored(np.ones((4, 4), np.int8))}
    with pytest.raises(
        CheckpointError, match=r"says fp8 \(quant_method\), but no tensors are stored that way \(1 of I8\)"
    ):
        found(strange, {"quant_method": "fp8"})


def test_modelopt_may_say_it_in_a_file_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"]}))
    told = {"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "FP8", "kv_cache_quant_algo": None}}
    (tmp_path / "hf_quant_config.json").write_text(json.dumps(told))
    stored_tensors.write(tmp_path / "model.safetensors", FP8)
    with open_checkpoint(tmp_path) as checkpoint:
        assert str(checkpoint.quantization) == "ModelOpt (FP8, tensor): 1 quantized tensor"
        assert checkpoint.size == sum(len(data) for _, _, data in FP8.values())
    (tmp_path / "hf_quant_config.json").write_text(json.dumps({"quantization": 4}))
    with pytest.raises(CheckpointError, match="quantization is 4, expected an object"), open_checkpoint(tmp_path):
        pass
