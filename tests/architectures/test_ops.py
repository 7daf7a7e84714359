"""Ops: what their `shapes` promise is what `apply` gives, in pieces as in one go."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ggufkit.architectures._head_ops import SplitKvB, UndoRopePermute, UngroupQkv
from ggufkit.architectures._ops import (
    AddOne,
    Concatenate,
    Copy,
    Each,
    NegativeExponential,
    Op,
    Reshape,
    Split,
    Squeeze,
    Stack,
    Then,
    Transpose,
)
from ggufkit.architectures._sizes import SIZES, derived, shape
from ggufkit.checkpoints.config import Config
from ggufkit.errors import CheckpointError

HEAD = 6
CONFIG = Config(
    {
        "hidden_size": 24,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "qk_nope_head_dim": 3,
        "v_head_dim": 5,
        "intermediate_size": 7,
    },
    derived=derived(SIZES),
)
OPS: list[tuple[Op, list[tuple[int, ...]]]] = [
    (Copy(), [(7, 3)]),
    (AddOne(), [(7,)]),
    (NegativeExponential(), [(7, 2)]),
    (Reshape("6 hidden"), [(12, 12)]),
    (Squeeze(), [(6, 1, 4)]),
    (Transpose(), [(7, 3)]),
    (Transpose(), [(4, 7, 3)]),
    (Concatenate(), [(4, 5), (3, 5)]),
    (Then(UngroupQkv(), Each(UndoRopePermute(), UndoRopePermute("kv_heads"), Copy())), [(8 * HEAD, 5)]),
    (Split("ff", "2*ff"), [(21, 4)]),
    (Split("ff", "2*ff"), [(21,)]),
    (Split("ff", "ff"), [(3, 14, 4)]),
    (Split("ff", "ff", axis=-1), [(3, 4, 14)]),
    (Then(Split("ff", "ff", axis=-1), Transpose()), [(3, 4, 14)]),
    (UngroupQkv(), [(8 * HEAD, 5)]),
    (Then(UngroupQkv(), Concatenate()), [(8 * HEAD,)]),
    (UndoRopePermute("heads"), [(4 * HEAD, 5)]),
    (UndoRopePermute("kv_heads"), [(2 * HEAD,)]),
    (UndoRopePermute("kv_heads", rotary="4"), [(2 * HEAD, 3)]),
    (Stack(), [(3, 4)] * 3),
    (SplitKvB(), [(4 * 8, 6)]),
]
IN_PIECES = (Copy, AddOne, NegativeExponential, UndoRopePermute, Stack, Concatenate)


@pytest.mark.parametrize(("op", "shapes"), OPS, ids=lambda value: type(value).__name__)
def test_shapes_are_kept(op: Op, shapes: list[tuple[int, ...]]) -> None:
    sources = [np.random.default_rng(i).standard_normal(shape).astype(np.float32) for i, shape in enumerate(shapes)]
    assert [result.shape for result in op.apply(sources, CONFIG)] == op.shapes(shapes, CONFIG)


@pytest.mark.parametrize(("op", "shapes"), OPS, ids=lambda value: type(value).__name__)
def test_pieces_make_the_whole(op: Op, shapes: list[tuple[int, ...]]) -> None:
    sources = [np.random.default_rng(i).standard_normal(shape).astype(np.float32) for i, shape in enumerate(shapes)]
    together = op.rows_together(shapes[0], CONFIG)
    if together is None:
        assert not isinstance(op, IN_PIECES)
        return
    assert isinstance(op, IN_PIECES)
    pieces = [
        op.apply([source[start : start + together]], CONFIG)[0].tobytes()
        for source in sources
        for start in range(0, len(source), together)
    ]
    assert b"".join(pieces) == op.apply(sources, CONFIG)[0].tobytes()


@given(heads=st.integers(1, 5), half=st.integers(1, 5), columns=st.integers(1, 3))
def test_undo_rope_permute_undoes_the_permutation_of_the_conversion_to_hf(heads: int, half: int, columns: int) -> None:
    """transformers' convert_llama_weights_to_hf.py permutes Meta's weights like this; GGUF wants Meta's order back."""
    config = {"heads": heads, "head": half * 2}
    meta = np.arange(heads * half * 2 * columns).reshape(heads * half * 2, columns)
    hugging_face = meta.reshape(heads, half, 2, columns).transpose(0, 2, 1, 3).reshape(meta.shape)
    (result,) = UndoRopePermute("heads").apply([hugging_face], config)
    assert np.array_equal(result, meta)


def test_wrong_sources_are_refused() -> None:
    with pytest.raises(CheckpointError, match="4 heads"):
        UndoRopePermute("heads").shapes([(23, 4)], CONFIG)
    with pytest.raises(CheckpointError, match="different shapes"):
        Stack().shapes([(2, 3), (3, 2)], CONFIG)
    with pytest.raises(CheckpointError, match="expected 32 rows"):
        SplitKvB().shapes([(31, 4)], CONFIG)
    with pytest.raises(CheckpointError, match="does not split into 7"):
        Split("ff", "ff").shapes([(13, 4)], CONFIG)
    with pytest.raises(CheckpointError, match="not that of 4"):
        UngroupQkv().shapes([(47, 4)], CONFIG)


def test_fused_heads_are_taken_apart() -> None:
    """Two groups of two queries, a key and a value, each head one row: names show where each goes."""
    config = {"heads": 4, "kv_heads": 2, "head": 1}
    fused = np.array([["q0"], ["q1"], ["k0"], ["v0"], ["q2"], ["q3"], ["k1"], ["v1"]])
    assert [part.ravel().tolist() for part in UngroupQkv().apply([fused], config)] == [
        ["q0", "q1", "q2", "q3"],
        ["k0", "k1"],
        ["v0", "v1"],
    ]


def test_only_the_rotated_part_of_a_head_is_permuted() -> None:
    rows = np.arange(12)
    (result,) = UndoRopePermute("heads", rotary="4").apply([rows], {"heads": 2, "head": 6})
    assert result.tolist() == [0, 2, 1, 3, 4, 5, 6, 8, 7, 9, 10, 11]


def test_a_size_may_differ_from_block_to_block() -> None:
    config = {"ff": [3, 5], "hidden": 4}
    assert shape(config, "2*ff+1 hidden", block=1) == (11, 4)
    with pytest.raises(CheckpointError, match="no value for block 2"):
        shape(config, "ff", block=2)
