"""Experts that are missing are named, huge ones pass in pieces, and multi-token prediction is kept or left out."""

import os
from collections.abc import Mapping
from pathlib import Path

import pytest
from recipes import RECIPES, golden, write

from ggufkit.architectures import spec_for
from ggufkit.checkpoints import open_checkpoint
from ggufkit.conversion import OutputType
from ggufkit.conversion.execute import _pieces
from ggufkit.conversion.plan import ConversionPlan, make_plan
from ggufkit.errors import CheckpointError
from ggufkit.gguf_file.reader import read_header


def plan_of(
    name: str, folder: Path, *, shapes: dict | None = None, mtp: bool = True, **config: object
) -> ConversionPlan:
    known = golden(name)
    write(folder, {**known["config"], **config}, shapes or known["shapes"], RECIPES[name])
    with open_checkpoint(folder) as opened:
        spec = spec_for(opened.config.architecture, opened.config.model_type)
        return make_plan(opened, spec, OutputType.F16, mtp=mtp, description={})


def metadata(plan: ConversionPlan, folder: Path) -> Mapping[str, object]:
    """Read the planned metadata as a file would have it."""
    path = folder / "planned.gguf"
    path.write_bytes(plan.layout.header)
    os.truncate(path, plan.layout.size)
    return read_header(path).metadata


def names(plan: ConversionPlan) -> set[str]:
    return {tensor.name for tensor in plan.layout.tensors}


@pytest.mark.parametrize(("name", "expert"), [("qwen3moe", 2), ("deepseek-v3", 7), ("lfm2moe", 0)])
def test_a_missing_expert_is_named(name: str, expert: int, tmp_path: Path) -> None:
    """Also the last one, which only the config knows of."""
    shapes = {key: shape for key, shape in golden(name)["shapes"].items() if f".experts.{expert}." not in key}
    with pytest.raises(CheckpointError, match=rf"experts\.\*\.\w+\.weight: no expert \[{expert}\] in the checkpoint"):
        plan_of(name, tmp_path, shapes=shapes)


def test_stacked_experts_fewer_than_the_config_says(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"ffn_\w+_exps\.weight of shape \(4, .*config\.json says \(5, "):
        plan_of("gpt-oss", tmp_path, num_local_experts=5)


@pytest.mark.parametrize("name", ["qwen3moe-fused", "gpt-oss", "llama4", "qwen3vlmoe-released"])
def test_stacked_experts_pass_one_by_one(name: str, tmp_path: Path) -> None:
    plan = plan_of(name, tmp_path)
    steps = [step for step in plan.steps if len(step.sources[0].shape) == 3 and ".experts." in step.sources[0].name]
    assert steps
    for step in steps:
        assert step.op.rows_together(step.sources[0].shape, plan.config) == 1
    assert all(piece.rows is not None for piece in _pieces(plan) if piece.step in steps)


@pytest.mark.parametrize(
    ("name", "block", "key"),
    [
        ("glm4moe-predicting", 3, "glm4moe"),
        ("glm4moelite-predicting", 3, "deepseek2"),
        ("qwen3next-predicting", 4, "qwen3next"),
        ("qwen35-predicting", 4, "qwen35"),
        ("hy-v3-predicting", 3, "hy_v3"),
        ("exaone-moe-predicting", 4, "exaone-moe"),
        ("cohere2moe-predicting", 4, "cohere2moe"),
    ],
)
def test_prediction_is_kept_or_left_out(name: str, block: int, key: str, tmp_path: Path) -> None:
    kept, left_out = plan_of(name, tmp_path / "kept"), plan_of(name, tmp_path / "left-out", mtp=False)
    assert f"blk.{block}.nextn.eh_proj.weight" in names(kept)
    assert names(kept) - names(left_out) == {path for path in names(kept) if path.startswith(f"blk.{block}.")}
    with_head, without = metadata(kept, tmp_path), metadata(left_out, tmp_path)
    assert (with_head[f"{key}.block_count"], without[f"{key}.block_count"]) == (block + 1, block)
    assert with_head[f"{key}.nextn_predict_layers"] == 1
    assert not without.get(f"{key}.nextn_predict_layers")
    assert any("multi-token prediction" in warning for warning in kept.warnings)
    assert any("multi-token prediction: as asked" in warning for warning in left_out.warnings)


def test_prediction_that_llama_cpp_does_not_load_is_left_out(tmp_path: Path) -> None:
    known = golden("ernie-moe")
    further = {"model.mtp_block.0.self_attn.q_proj.weight": (64, 64), "model.mtp_emb_norm.0.weight": (64,)}
    plan = plan_of("ernie-moe", tmp_path, shapes={**known["shapes"], **further})
    assert [w for w in plan.warnings if "left out 2 tensors of multi-token prediction: llama.cpp does not" in w]
    assert names(plan) == names(plan_of("ernie-moe", tmp_path / "without"))
