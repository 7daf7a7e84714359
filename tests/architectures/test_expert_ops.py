"""Ops on stacked experts and on the gated delta net: what they promise, piece by piece, and where each element goes."""

import numpy as np
import pytest

from ggufkit.architectures import experts_with_inputs_first
from ggufkit.architectures._delta_net import SIZES as DELTA_SIZES
from ggufkit.architectures._delta_net import TileDecay, TileValueHeads, UngroupQkvz
from ggufkit.architectures._expert_ops import SplitGateUp, StackedDown, TakeTurns, Twice
from ggufkit.architectures._ops import Op
from ggufkit.architectures._sizes import SIZES, derived
from ggufkit.checkpoints.config import Config
from ggufkit.errors import CheckpointError

EXPERTS, HIDDEN, WIDTH = 3, 8, 5
GIVEN = {
    "hidden_size": HIDDEN,
    "moe_intermediate_size": WIDTH,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 6,
    "linear_key_head_dim": 4,
    "linear_value_head_dim": 4,
}
CONFIG = Config(GIVEN, derived=derived({**SIZES, **DELTA_SIZES}))
OPS: list[tuple[Op, tuple[int, ...]]] = [
    (SplitGateUp(), (EXPERTS, 2 * WIDTH, HIDDEN)),
    (SplitGateUp(), (EXPERTS, HIDDEN, 2 * WIDTH)),
    (SplitGateUp(interleaved=True), (EXPERTS, HIDDEN, 2 * WIDTH)),
    (StackedDown(), (EXPERTS, HIDDEN, WIDTH)),
    (StackedDown(), (EXPERTS, WIDTH, HIDDEN)),
    (TakeTurns(), (EXPERTS, 2 * WIDTH)),
    (Twice(), (7, HIDDEN)),
    (UngroupQkvz(), (2 * (2 * 4) + 2 * (6 * 4), HIDDEN)),
    (TileValueHeads(), (6, HIDDEN)),
    (TileValueHeads("v_dim", after="2*k_heads*k_dim"), (16 + 24, 3)),
    (TileValueHeads("v_dim", columns=True), (HIDDEN, 24)),
    (TileDecay(), (6,)),
]


def numbers(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(("op", "shape"), OPS, ids=lambda value: type(value).__name__)
def test_shapes_are_kept(op: Op, shape: tuple[int, ...]) -> None:
    assert [result.shape for result in op.apply([numbers(shape)], CONFIG)] == op.shapes([shape], CONFIG)


@pytest.mark.parametrize(("op", "shape"), OPS, ids=lambda value: type(value).__name__)
def test_pieces_make_every_target_whole(op: Op, shape: tuple[int, ...]) -> None:
    together = op.rows_together(shape, CONFIG)
    assert (together is None) == isinstance(op, TakeTurns | UngroupQkvz | TileValueHeads)
    if together is None:
        return
    source = numbers(shape)
    pieces = [op.apply([source[start : start + together]], CONFIG) for start in range(0, shape[0], together)]
    for target, whole in enumerate(op.apply([source], CONFIG)):
        assert b"".join(piece[target].tobytes() for piece in pieces) == whole.tobytes()


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("inputs_first", [False, True])
def test_gate_and_up_come_out_the_same_however_they_are_stored(inputs_first: bool, interleaved: bool) -> None:
    gate, up = numbers((EXPERTS, WIDTH, HIDDEN)), -numbers((EXPERTS, WIDTH, HIDDEN))
    both = np.stack([gate, up], axis=2 if interleaved else 1).reshape(EXPERTS, 2 * WIDTH, HIDDEN)
    stored = both.swapaxes(1, 2) if inputs_first else both
    found = SplitGateUp(interleaved=interleaved).apply([stored], CONFIG)
    assert np.array_equal(found[0], gate)
    assert np.array_equal(found[1], up)


def test_the_other_tensor_tells_where_a_square_one_leaves_it_open() -> None:
    square = {**GIVEN, "hidden_size": 2 * WIDTH}
    for inputs_first, down in ((True, (EXPERTS, WIDTH, 2 * WIDTH)), (False, (EXPERTS, 2 * WIDTH, WIDTH))):
        shapes = {
            "model.layers.0.mlp.experts.gate_up_proj": (EXPERTS, 2 * WIDTH, 2 * WIDTH),
            "model.layers.0.mlp.experts.down_proj": down,
        }
        config = Config(square, derived={**derived(SIZES), "inputs_first": lambda _, told=inputs_first: told})
        assert experts_with_inputs_first(config, shapes) is inputs_first
        stored = numbers(shapes["model.layers.0.mlp.experts.gate_up_proj"])
        gate, _ = SplitGateUp().apply([stored], config)
        assert np.array_equal(gate, (stored.swapaxes(1, 2) if inputs_first else stored)[:, :WIDTH])


def test_value_heads_are_tiled() -> None:
    """Three value heads for each of two key heads: first those that come first in their group."""
    heads = np.array(["a0", "a1", "a2", "b0", "b1", "b2"])
    tiled = ["a0", "b0", "a1", "b1", "a2", "b2"]
    assert TileValueHeads().apply([heads], CONFIG)[0].tolist() == tiled
    before = np.array([f"qk{row}" for row in range(16)])
    rows = np.concatenate([before, np.repeat(heads, 4)])
    found = TileValueHeads("v_dim", after="2*k_heads*k_dim").apply([rows], CONFIG)[0]
    assert found.tolist() == [*before, *np.repeat(tiled, 4)]


def test_qkvz_is_taken_apart_by_key_head() -> None:
    parts = {"q": 4, "k": 4, "v": 12, "z": 12}
    rows = [[f"{name}{head}"] for head in range(2) for name, count in parts.items() for _ in range(count)]
    qkv, z = UngroupQkvz().apply([np.array(rows)], CONFIG)
    assert qkv.ravel().tolist() == [f"{name}{head}" for name in "qkv" for head in range(2) for _ in range(parts[name])]
    assert z.ravel().tolist() == ["z0"] * 12 + ["z1"] * 12


def test_wrong_sources_are_refused() -> None:
    for op, shape in (
        (SplitGateUp(), (EXPERTS, 2 * WIDTH, HIDDEN + 1)),
        (StackedDown(), (EXPERTS, HIDDEN)),
        (TakeTurns(), (EXPERTS, 5)),
        (UngroupQkvz(), (63, HIDDEN)),
        (TileValueHeads(), (7,)),
    ):
        with pytest.raises(CheckpointError):
            op.shapes([shape], CONFIG)
