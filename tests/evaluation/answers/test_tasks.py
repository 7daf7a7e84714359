"""Right answers are counted, with honest intervals, and paired."""

import json
import re
from pathlib import Path

import pytest

from ggufkit.errors import InputError
from ggufkit.evaluation.answers.tasks import accuracy, mcnemar, read_task, task_result


def test_wilsons_interval():
    """The textbook's example (Agresti and Coull, 1998): 10 of 10 right."""
    found = accuracy([True] * 10)
    assert (found.share, found.high) == pytest.approx((1.0, 1.0))
    assert found.low == pytest.approx(0.7225, abs=1e-4)
    half = accuracy([True, False] * 50)
    assert (half.low, half.high) == pytest.approx((0.4038, 0.5962), abs=1e-4)


@pytest.mark.parametrize(("lost", "gained", "p"), [(0, 0, 1.0), (5, 5, 1.0), (3, 0, 0.25), (10, 1, 0.01171875)])
def test_mcnemars_exact_test(lost: int, gained: int, p: float):
    assert mcnemar(lost, gained) == mcnemar(gained, lost) == pytest.approx(p)


def test_a_model_is_paired_with_the_base(tmp_path: Path):
    path = tmp_path / "sums.jsonl"
    lines = [{"prompt": str(n), "answer": str(n), "kind": "odd" if n % 2 else "even"} for n in range(4)]
    path.write_text("\n".join(map(json.dumps, lines)))
    task = read_task(path)
    found = task_result(task, [True, True, False, False], [True, False, True, True])
    assert (found.lost, found.gained, found.accuracy.right) == (2, 1, 2)
    assert found.by_kind["even"].right == 1
    assert task_result(task, [True] * 4, None).p_value is None


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "line 1 is not JSON"),
        ('{"answer": "x"}', "neither a prompt nor messages"),
        ('{"prompt": "x"}', "the answer must be a text"),
        ('{"prompt": "x", "choices": ["a"], "answer": "a"}', "two texts or more"),
        ('{"prompt": "x", "choices": ["a", "b"], "answer": "c"}', "none of the choices"),
        ('{"prompt": "x", "choices": ["a", "b"], "answer": 2}', "none of the choices"),
        ('{"prompt": 5, "answer": "5"}', "line 1: prompt must be a text"),
        ('{"prompt": null, "answer": "5"}', "line 1: there must be either"),
        ('{"messages": [], "answer": "5"}', "at least one message"),
        ('{"messages": [{"role": "user", "content": {"a": 1}}], "answer": "5"}', "must have a text"),
        ('{"prompt": "\\ud800", "answer": "x"}', "half of a surrogate pair"),
        ("", "empty"),
    ],
)
def test_lines_that_are_no_questions_are_refused(line: str, reason: str, tmp_path: Path):
    path = tmp_path / "bad.jsonl"
    path.write_text(line)
    with pytest.raises(InputError, match=reason):
        read_task(path)


@pytest.mark.parametrize("line", ["{", '{"answer": "x"}', '{"prompt": "x"}'])
def test_the_lines_that_a_hint_shows_can_be_read(line: str, tmp_path: Path):
    path = tmp_path / "bad.jsonl"
    path.write_text(line)
    with pytest.raises(InputError) as caught:
        read_task(path)
    shown = re.findall(r"\{.*?\}(?!\])", caught.value.hint or "")
    assert len(shown) == 2
    for number, example in enumerate(shown):
        (tmp_path / f"{number}.jsonl").write_text(json.dumps({"answer": "5", **json.loads(example)}))
        assert read_task(tmp_path / f"{number}.jsonl").questions
