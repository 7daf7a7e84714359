"""What `ggufkit eval` writes never takes the place of what it reads."""

import json
import os
from pathlib import Path

import pytest

from ggufkit.cli._evaluate_files import check_outputs
from ggufkit.errors import UsageError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("m-00001-of-00002.gguf", "m-00002-of-00002.gguf", "text", "checkpoint/config.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "output", ["text", "./text", "m-00001-of-00002.gguf", "m-00002-of-00002.gguf", "checkpoint/config.json", "linked"]
)
def test_inputs_are_no_outputs(folder: Path, output: str) -> None:
    os.link("text", "linked")
    inputs = [Path("m-00001-of-00002.gguf"), Path("text"), Path("checkpoint")]
    with pytest.raises(UsageError, match="output and input are the same file"):
        check_outputs({"-o": None, "--report": Path(output)}, inputs)
    assert (folder / output).read_text()


def test_outputs_differ_from_each_other(folder: Path) -> None:
    with pytest.raises(UsageError, match="-o and --report name the same file"):
        check_outputs({"-o": Path("new"), "--report": folder / "new"}, [])


def test_what_it_has_written_into_a_checkpoint_may_be_written_again(folder: Path) -> None:
    (folder / "checkpoint" / "run.json").write_text(json.dumps({"schema_version": 1, "kind": "evaluation"}, indent=1))
    (folder / "checkpoint" / "run.html").write_text("<!DOCTYPE html>\n<html>")
    outputs = {"-o": Path("checkpoint/run.json"), "--report": Path("checkpoint/run.html"), "--keep-logits": Path("x")}
    check_outputs(outputs, [Path("checkpoint")])
