"""Texts are shared out evenly, never across each other's ends."""

from pathlib import Path

import numpy as np
import pytest

from ggufkit.errors import InputError, UsageError
from ggufkit.evaluation.likelihood.passes import Running
from ggufkit.evaluation.likelihood.texts import cut_into_chunks


@pytest.fixture
def texts(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / name for name in ("prose.txt", "code.py", "chat.jsonl")]
    for path in paths:
        path.write_text(path.name)
    return paths


def numbered(*lengths: int) -> list[np.ndarray]:
    return [np.arange(length, dtype=np.int32) + 1000 * number for number, length in enumerate(lengths)]


@pytest.mark.parametrize(
    ("wanted", "shares"), [(None, [9, 2, 30]), (6, [2, 2, 2]), (10, [4, 2, 4]), (1, [1, 1, 1]), (99, [9, 2, 30])]
)
def test_chunks_are_shared(wanted: int | None, shares: list[int], texts: list[Path]):
    found = cut_into_chunks(texts, numbered(95, 29, 300), 4000, length=10, chunks=wanted)
    assert [domain.chunks for domain in found.domains] == shares
    assert [domain.name for domain in found.domains] == ["prose", "code", "chat"]
    for number, domain in enumerate(found.domains):
        part = found.tokens[found.of_domain(domain.name)]
        assert [token for chunk in part for token in chunk] == [1000 * number + i for i in range(10 * domain.chunks)]


def test_a_text_that_is_too_short_is_refused(texts: list[Path]):
    with pytest.raises(InputError, match=r"code\.py has 9 tokens, fewer than a chunk of 10"):
        cut_into_chunks(texts, numbered(95, 9, 300), 4000, length=10)


def test_two_texts_of_one_name_stay_two_domains(tmp_path: Path):
    paths = [tmp_path / "a" / "text.txt", tmp_path / "b" / "text.txt"]
    for path in paths:
        path.parent.mkdir()
        path.write_text("")
    found = cut_into_chunks(paths, numbered(10, 10), 4000, length=10)
    assert [domain.name for domain in found.domains] == ["a/text.txt", "b/text.txt"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"cache_type_k": "q9"}, "'q9' is no type of keys"),
        ({"flash_attention": "yes"}, "no flash attention"),
        ({"gpu_layers": "x"}, "x"),
    ],
)
def test_how_models_run_is_checked_before_any_does(change: dict[str, str], said: str):
    with pytest.raises(UsageError, match=said):
        Running(**change)  # type: ignore[arg-type]  # what a test changes


def test_an_empty_text_is_said_to_be_empty(tmp_path: Path):
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(InputError, match="is empty") as refused:
        cut_into_chunks([tmp_path / "a.txt"], [np.zeros(0, np.int32)], 100)
    assert refused.value.hint == "give more text"
