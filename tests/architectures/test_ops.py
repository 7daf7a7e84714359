"""Ops: what their `shapes` promise is what `apply` gives, in pieces as in one go."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ggufkit.architectures._ops import AddOne, Copy, Op, SplitKvB, Stack, UndoRopePermute
from ggufkit.errors import CheckpointError

CONFIG = {
    "hidden_size": 24,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "qk_nope_head_dim": 3,
    "v_head_dim": 5,
}
HEAD = 6
OPS: list[tuple[Op, list[tuple[int, ...]]]] = [
    (Copy(), [(7, 3)]),
    (AddOne(), [(7,)]),
    (UndoRopePermute("num_attention_heads"), [(4 * HEAD, 5)]),
    (UndoRopePermute("num_key_value_heads"), [(2 * HEAD,)]),
    (Stack(), [(3, 4)] * 3),
    (SplitKvB(), [(4 * 8, 6)]),
]


@pytest.mark.parametrize(("op", "shapes"), OPS, ids=lambda value: type(value).__name__)
def test_shapes_are_kept(op: Op, shapes: list[tuple[int, ...]]) -> None:
    sources = [np.random.default_rng(i).standard_normal(shape).astype(np.float32) for i, shape in enumerate(shapes)]
    assert [result.shape for result in op.apply(sources, CONFIG)] == op.shapes(shapes, CONFIG)


@pytest.mark.parametrize(("op", "shapes"), OPS, ids=lambda value: type(value).__name__)
def test_pieces_make_the_whole(op: Op, shapes: list[tuple[int, ...]]) -> None:
    sources = [np.random.default_rng(i).standard_normal(shape).astype(np.float32) for i, shape in enumerate(shapes)]
    together = op.rows_together(shapes[0], CONFIG)
    if together is None:
        pytest.fail("not in pieces") if not isinstance(op, SplitKvB) else None
        return
    pieces = [
        op.apply([source[start : start + together]], CONFIG)[0].tobytes()
        for source in sources
        for start in range(0, len(source), together)
    ]
    assert b"".join(pieces) == op.apply(sources, CONFIG)[0].tobytes()


@given(heads=st.integers(1, 5), half=st.integers(1, 5), columns=st.integers(1, 3))
def test_undo_rope_permute_undoes_the_permutation_of_the_conversion_to_hf(heads: int, half: int, columns: int) -> None:
    """transformers' convert_llama_weights_to_hf.py permutes Meta's weights like this; GGUF wants Meta's order back."""
    config = {"hidden_size": heads * half * 2, "num_attention_heads": heads}
    meta = np.arange(heads * half * 2 * columns).reshape(heads * half * 2, columns)
    hugging_face = meta.reshape(heads, half, 2, columns).transpose(0, 2, 1, 3).reshape(meta.shape)
    (result,) = UndoRopePermute("num_attention_heads").apply([hugging_face], config)
    assert np.array_equal(result, meta)


def test_wrong_sources_are_refused() -> None:
    with pytest.raises(CheckpointError, match="4 heads"):
        UndoRopePermute("num_attention_heads").shapes([(23, 4)], CONFIG)
    with pytest.raises(CheckpointError, match="different shapes"):
        Stack().shapes([(2, 3), (3, 2)], CONFIG)
    with pytest.raises(CheckpointError, match="expected 32 rows"):
        SplitKvB().shapes([(31, 4)], CONFIG)
