"""Verifying models that do not generate text: what they make of every token is compared instead of logits."""

import json
from pathlib import Path

import pytest
from recipes import checkpoint
from tokenless import convert

from ggufkit.checkpoints import open_checkpoint
from ggufkit.evaluation.logits import check_logits
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
