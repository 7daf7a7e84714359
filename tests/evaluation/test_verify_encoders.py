"""Verifying models that do not generate text, by what they make of every token; and judges that are none."""

import json
from pathlib import Path

import pytest
from recipes import checkpoint
from tokenless import convert

from ggufkit.checkpoints import open_checkpoint
from ggufkit.evaluation.logits import check_logits
from ggufkit.evaluation.prompts import special_ids
from ggufkit.evaluation.results import Check, Grade
from ggufkit.gguf_file.reader import read_header
from ggufkit.progress import silent

pytestmark = [pytest.mark.oracle, pytest.mark.engine]


def check(model: Path, folder: Path) -> Check:
    with open_checkpoint(folder) as opened:
        return check_logits(model, opened, [read_header(model)], tokens=24, threads=1, progress=silent)


@pytest.mark.parametrize("name", ["bert-labels", "modernbert", "t5-encoder", "mt5"])
def test_encoders_and_pairs_are_compared(name: str, tmp_path: Path) -> None:
    folder = checkpoint(name, tmp_path)
    found = check(convert(folder), folder)
    assert found.grade is Grade.CLOSE, found.summary
    assert found.summary.startswith("hidden states") == (name != "mt5")


def test_an_encoder_that_was_changed_is_noticed(tmp_path: Path) -> None:
    folder = checkpoint("modernbert", tmp_path / "original")
    other = checkpoint("modernbert", tmp_path / "changed")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "local_attention": 2}))
    assert check(convert(other), folder).grade is Grade.FAILED


def test_embedding_gemma_looks_both_ways(tmp_path: Path) -> None:
    """llama.cpp's file has no key that says it is an encoder, and its window reaches to both sides."""
    folder = checkpoint("embeddinggemma", tmp_path)
    found = check(convert(folder), folder)
    assert (found.grade, found.figures["output"]) == (Grade.CLOSE, "hidden states"), found.summary


@pytest.mark.parametrize("name", ["roberta", "camembert"])
def test_no_prompt_holds_a_special_token(name: str, tmp_path: Path) -> None:
    """Transformers counts Roberta's positions without the padding; its id may be a default that no file names."""
    folder = checkpoint(name, tmp_path)
    model = convert(folder)
    with open_checkpoint(folder) as opened:
        assert 1 in special_ids(opened, read_header(model))
    found = check(model, folder)
    assert found.grade is Grade.CLOSE, found.summary


def test_a_reference_that_makes_up_weights_is_no_judge(tmp_path: Path) -> None:
    """Transformers ignores the names of this release, and would run with random numbers."""
    folder = checkpoint("ernie-fused", tmp_path)
    found = check(convert(folder), folder)
    assert found.grade is Grade.SKIPPED
    assert "transformers does not load 14 tensors of it" in found.summary
