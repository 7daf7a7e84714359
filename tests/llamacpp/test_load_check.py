"""Asking llama.cpp whether it would load a model: its own words, and never an answer that was not given."""

from pathlib import Path

import pytest
import tiny_gguf

from ggufkit.llamacpp import load_check
from ggufkit.llamacpp.find import VARIABLE


@pytest.mark.engine
def test_a_model_that_loads_and_one_that_does_not(tmp_path: Path):
    assert load_check.why_not(tiny_gguf.write_model(tmp_path / "whole.gguf")) is None
    assert load_check.why_not(tiny_gguf.write_model(tmp_path / "odd.gguf", hidden=100, feed_forward=4)) is None
    lacking = tiny_gguf.write_model(tmp_path / "lacking.gguf", leave_out=["blk.0.ffn_up.weight"])
    assert load_check.why_not(lacking) == "tensor 'blk.0.ffn_up.weight' not found"
    (tmp_path / "text.gguf").write_text("no model")
    assert load_check.why_not(tmp_path / "text.gguf")


@pytest.mark.engine
def test_weights_are_not_read(tmp_path: Path):
    model = tiny_gguf.write_model(tmp_path / "model.gguf")
    size = model.stat().st_size
    with model.open("r+b") as file:
        file.truncate(20_000)
        file.truncate(size)
    assert load_check.why_not(model) is None


@pytest.mark.engine
def test_a_build_that_cannot_be_asked_refuses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    model = tiny_gguf.write_model(tmp_path / "model.gguf", leave_out=["blk.0.ffn_up.weight"])
    monkeypatch.setenv(VARIABLE, str(tiny_gguf.fake_build(tmp_path / "build", "")))
    assert load_check.why_not(model) is None


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (["llama_model_load: error loading model: check_tensor_dims: tensor 'x' not found"], "tensor 'x' not found"),
        (["llama_model_load: error loading model: error loading model vocabulary: no merges"], "no merges"),
        (["x.cpp:7: GGML_ASSERT(n > 0) failed"], "GGML_ASSERT(n > 0) failed"),
        (["OSError: cannot open shared object file"], None),
    ],
)
def test_reasons_are_found_among_what_it_prints(lines: list[str], reason: str | None):
    assert load_check.parse(lines) == reason
