"""What `ggufkit bench` says of two models: as much as the rounds can tell, and no more."""

from pathlib import Path

import pytest

from ggufkit.cli._bench_view import compared
from ggufkit.evaluation.speed import PairedSpeed


@pytest.mark.parametrize(
    ("ratios", "said"),
    [
        ((1.3,), "B.gguf was 1.30 times as fast as A.gguf at tg8, in 1 round: too few to tell a difference from noise"),
        ((51.15, 0.44), "B.gguf was 51.15 and 0.44 times as fast as A.gguf at tg8, in 2 rounds: too few"),
        ((1.2, 1.1, 1.3), "B.gguf was 1.20, 1.10 and 1.30 times as fast as A.gguf at tg8, in 3 rounds: too few"),
        ((1.2, 1.3, 1.25, 1.4, 1.1), "B.gguf is 1.25 times as fast as A.gguf at tg8 (1.10 to 1.40 in all 5 rounds)"),
        ((0.8, 0.7, 0.9, 0.75, 0.8), "B.gguf is 0.80 times as fast as A.gguf at tg8 (0.70 to 0.90 in all 5 rounds)"),
        (
            (1.2, 0.9, 1.25, 1.4, 1.1),
            "B.gguf and A.gguf differ by less at tg8 than 5 rounds can tell: 0.90 to 1.40 times as fast, 1.20 in the",
        ),
    ],
)
def test_a_comparison_says_as_much_as_its_rounds_can_tell(ratios: tuple[float, ...], said: str) -> None:
    pair = PairedSpeed(Path("A.gguf"), Path("B.gguf"), "tg8", ratios)
    assert compared(pair, "A.gguf", "B.gguf").startswith(said)
