"""What the estimate takes for granted: the speed of every type that is encoded or searched."""

from ggufkit.allocation.estimate import _SEARCHED, _SPEEDS, Speeds
from ggufkit.gguf_file.tensor_types import TensorType
from ggufkit.quantization.scale_search import can_search


def test_every_type_that_can_be_searched_has_a_speed() -> None:
    assert set(_SEARCHED) == {kind for kind in TensorType if can_search(kind)}
    assert set(_SEARCHED) <= set(_SPEEDS)


def test_searching_takes_longer_than_encoding_but_for_types_that_ggml_searches_itself() -> None:
    speeds = Speeds(1e6, 1.0)
    assert speeds.searching(1e6, TensorType.Q6_K) > speeds.encoding(1e6, TensorType.Q6_K)
    assert speeds.searching(1e6, TensorType.IQ1_S) == 0
