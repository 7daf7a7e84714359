"""Which channels can be scaled: any factors of any of them leave what llama.cpp computes as it is."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import random_models

from ggufkit.allocation.equalization.channels import Channels, channels_of
from ggufkit.allocation.equalization.copies import write_equalized
from ggufkit.allocation.equalization.factors import Equalization
from ggufkit.evaluation.likelihood import passes
from ggufkit.evaluation.likelihood.passes import Running
from ggufkit.evaluation.likelihood.texts import Chunks
from ggufkit.gguf_file.reader import read_header
from ggufkit.progress import silent
from ggufkit.quantization.direct import library

RUNNING = Running(threads=1)
TOLERANCE = 2e-4  # nats: small values lose bits in the cache's F16 when they shrink


def nll(model: Path, folder: Path) -> np.ndarray:
    """What a model says of some tokens, by llama.cpp: float32 [chunks, scored]."""
    folder.mkdir()
    chance = np.random.default_rng(5)
    count = read_header(model).metadata.entries["tokenizer.ggml.tokens"].count
    tokens = chance.integers(0, count, (2, 64)).tolist()
    chunks = Chunks(tuple(map(tuple, tokens)), 64, count, ())
    return passes.read_base(model, chunks, folder, RUNNING, silent).scores


@pytest.mark.engine
@pytest.mark.oracle
@pytest.mark.parametrize(
    "kind", [{}, {"tied": False, "biases": True}, {"experts": 4}, {"experts": 4, "feed_forward": 512}]
)
def test_any_factors_leave_what_the_model_says_as_it_is(tmp_path: Path, kind: dict[str, object]) -> None:
    model = random_models.write(tmp_path / "model-F32.gguf", dtype=np.float32, **kind)  # type: ignore[arg-type]
    header, chance = read_header(model), np.random.default_rng(1)
    there = channels_of([header])
    found = {each: np.exp(chance.normal(0, 1, (each.experts, each.count))).astype(np.float32) for each in there}
    said = nll(model, tmp_path / "model")
    copy = tmp_path / "scaled-F32.gguf"
    write_equalized([header], [copy], Equalization(found), library())
    assert copy.read_bytes() != model.read_bytes()
    # Inputs are rounded, and the cache holds values in F16: by other scales to other numbers.
    assert np.abs(nll(copy, tmp_path / "copy") - said).mean() < 0.02
    write_equalized([header], [copy], Equalization(found).exact, library())
    assert np.allclose(nll(copy, tmp_path / "exact"), said, rtol=0, atol=TOLERANCE)
    for part in {each.kind for each in there}:  # and without any of them, it is not the same model
        (one,) = (each for each in there if each.kind == part and each.name.startswith("blk.0."))
        wrong = replace(one, readers=one.readers[1:]) if len(one.readers) > 1 else replace(one, vectors=(), maker=None)
        write_equalized([header], [copy], Equalization({wrong: found[one]}).exact, library())
        assert not np.allclose(nll(copy, tmp_path / part), said, rtol=0, atol=100 * TOLERANCE)


def test_names_norms_values_and_gates(tmp_path: Path) -> None:
    there = channels_of([read_header(random_models.write(tmp_path / "m.gguf", blocks=1, tied=False))])
    assert {each.name: each.readers for each in there} == {
        "blk.0.attn_norm": ("blk.0.attn_q.weight", "blk.0.attn_k.weight", "blk.0.attn_v.weight"),
        "blk.0.ffn_norm": ("blk.0.ffn_gate.weight", "blk.0.ffn_up.weight"),
        "blk.0.attn_v": ("blk.0.attn_output.weight",),
        "blk.0.ffn_up": ("blk.0.ffn_down.weight",),
    }  # and not the last norm, which embeddings come out of


def test_routers_read_the_norm_too_and_experts_have_channels_of_their_own(tmp_path: Path) -> None:
    there = channels_of([read_header(random_models.write(tmp_path / "m.gguf", blocks=1, experts=4, feed_forward=512))])
    named = {each.name: each for each in there}
    assert named["blk.0.ffn_norm"].readers == tuple(
        f"blk.0.ffn_{part}.weight" for part in ("gate_inp", "gate_exps", "up_exps")
    )
    assert named["blk.0.ffn_norm"].experts == 1
    assert "blk.0.ffn_up" not in named
    stacked = named["blk.0.ffn_up_exps"]
    assert (stacked.experts, stacked.count, stacked.readers) == (4, 512, ("blk.0.ffn_down_exps.weight",))


def test_groups_of_query_heads_read_the_same_values() -> None:
    channels = Channels("blk.0.attn_v", 4, (), "v", ("o",), heads=2, repeats=2)
    assert channels.spread(np.array([[1, 2, 3, 4]], np.float32)).tolist() == [[1, 2, 1, 2, 3, 4, 3, 4]]
    assert channels.gathered(np.array([[1.0, 2, 3, 4, 5, 6, 7, 8]])).tolist() == [[2, 3, 6, 7]]


@pytest.mark.parametrize(
    ("old", "new", "left"),
    [
        (b"blk.0.ffn_norm", b"blk.0.ffn_nrom", {"attn_v"}),  # the feed-forward part may read the norm of attention
        (b"blk.0.attn_output", b"blk.0.attn_outtup", {"ffn_norm", "ffn_up"}),
        (b"blk.0.attn_norm", b"blk.0.norm_attn", set()),
    ],
)
def test_leaves_parts_of_blocks_alone_that_hold_what_it_does_not_know(
    tmp_path: Path, old: bytes, new: bytes, left: set[str]
) -> None:
    path = random_models.write(tmp_path / "m.gguf", blocks=1)
    path.write_bytes(path.read_bytes().replace(old, new))
    assert {each.kind for each in channels_of([read_header(path)])} == left


@pytest.mark.parametrize(
    ("key", "value", "left"),
    [
        ("attention.clamp_kqv", 8.0, {"attn_norm", "ffn_norm", "ffn_up"}),
        ("attention.clamp_kqv", 0.0, {"attn_norm", "ffn_norm", "ffn_up", "attn_v"}),
        ("swiglu_clamp_exp", [0.0, 7.0], {"attn_norm", "ffn_norm", "attn_v"}),
        ("swiglu_clamp_exp", [0.0, 0.0], {"attn_norm", "ffn_norm", "ffn_up", "attn_v"}),
    ],
)
def test_what_is_clamped_is_left_alone(tmp_path: Path, key: str, value: object, left: set[str]) -> None:
    """Whether a text comes near a limit is chance: comparing what models say of some would not tell."""
    header = read_header(random_models.write(tmp_path / "m.gguf", blocks=1))
    with_limit = replace(header, metadata={**header.metadata, f"llama.{key}": value})  # type: ignore[arg-type]
    assert {each.kind for each in channels_of([with_limit])} == left
