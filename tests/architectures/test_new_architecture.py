"""A new architecture that is an old one with a renamed tensor is a few lines of data, and nothing else."""

import dataclasses
from pathlib import Path

import pytest
from recipes import RECIPES, golden, write

from ggufkit.architectures import spec_for
from ggufkit.architectures._spec import blocks
from ggufkit.checkpoints import open_checkpoint
from ggufkit.conversion import OutputType
from ggufkit.conversion.plan import make_plan
from ggufkit.errors import CheckpointError, UnmappedTensorError

QWEN2 = spec_for("Qwen2ForCausalLM")
RENAMED = dataclasses.replace(
    QWEN2,
    hf_architectures=("RenamedForCausalLM",),
    tensors=(*QWEN2.tensors, blocks("model.layers", {"self_attn.o_proj": None, "self_attn.out": "attn_output"})),
)


def renamed(folder: Path, old: str, new: str) -> Path:
    known = golden("qwen2")
    shapes = {name.replace(old, new): shape for name, shape in known["shapes"].items()}
    return write(folder, known["config"] | {"architectures": ["RenamedForCausalLM"]}, shapes, RECIPES["qwen2"])


def test_the_renamed_tensor_is_all_that_is_said(tmp_path: Path) -> None:
    with open_checkpoint(renamed(tmp_path, "self_attn.o_proj", "self_attn.out")) as checkpoint:
        plan = make_plan(checkpoint, RENAMED, OutputType.F16, description={})
    assert {tensor.name for tensor in plan.layout.tensors} == set(golden("qwen2")["tensors"])


def test_what_it_does_not_say_is_refused(tmp_path: Path) -> None:
    checkpoint = renamed(tmp_path / "another", "self_attn.o_proj", "self_attn.another")
    with (
        open_checkpoint(checkpoint) as opened,
        pytest.raises(UnmappedTensorError, match=r"no rule for tensor .*self_attn\.another"),
    ):
        make_plan(opened, RENAMED, OutputType.F16, description={})
    checkpoint = renamed(tmp_path / "dropped", "self_attn.o_proj", "self_attn.o_proj")
    with open_checkpoint(checkpoint) as opened, pytest.raises(CheckpointError, match=r"becomes blk\.0\.attn_output"):
        make_plan(opened, RENAMED, OutputType.F16, description={})
