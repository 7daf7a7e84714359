"""Questions with known answers: what share a model gets right, and whether it differs from the base on the same ones.

A line has a prompt (or messages) and either an `answer` (compared with the reply, white space aside), or `choices` and
the `answer` among them (its place from 0, or its text): the likeliest choice counts.

Intervals are Wilson's (E. B. Wilson, 1927) at 95 %; the paired comparison is McNemar's exact test (Q. McNemar, 1947).
"""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ggufkit.errors import InputError
from ggufkit.evaluation.answers.asking import Reply, check_asked, prompt_of, read_lines, replies_of, weights_of
from ggufkit.evaluation.likelihood.running import Running
from ggufkit.progress import Progress

_A_LINE = 'such as {"prompt": "2 + 3 =", "answer": "5"}, or {"prompt": "2 + 3 is", "choices": ["4", "5"], "answer": 1}'
_Z = 1.959963984540054  # standard normal, 97.5 %


@dataclass(frozen=True, slots=True)
class Question:
    """One question; `choices` is empty where the reply is compared with `answer`, else `answer` is one of them."""

    prompt: Mapping[str, Any]
    answer: str
    choices: tuple[str, ...]
    kind: str


@dataclass(frozen=True, slots=True)
class Task:
    """A file of questions, by its name."""

    name: str
    path: Path
    questions: tuple[Question, ...]


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Shares are fractions of 1; `low` and `high` are the 95 % interval."""

    right: int
    questions: int
    low: float
    high: float

    @property
    def share(self) -> float:
        """The share of right answers."""
        return self.right / self.questions


@dataclass(frozen=True, slots=True)
class TaskResult:
    """A model on a task. `lost` and `gained` count questions that only the base, or only the model, got right."""

    task: str
    accuracy: Accuracy
    by_kind: Mapping[str, Accuracy]
    right: tuple[bool, ...]
    lost: int | None
    gained: int | None
    p_value: float | None  # of McNemar's test against the base
    unasked: int = 0  # questions that could not be given to the model, and count as wrong


def read_task(path: Path) -> Task:
    """Read a file of questions.

    Raises:
        InputError: it cannot be read, or a line has no answer, or one that is not among its choices.
    """
    if not path.is_file():
        raise InputError(f"no such file of questions: {path}")
    questions = tuple(_question(line, path, number) for number, line in enumerate(read_lines(path), 1))
    return Task(path.stem, path, questions)


def _question(line: Mapping[str, Any], path: Path, number: int) -> Question:
    prompt, answer, choices = prompt_of(line, path, number), line.get("answer"), line.get("choices")
    kind = str(line.get("kind", ""))
    if choices is None:
        if not isinstance(answer, str):
            raise InputError(f"{path}, line {number}: the answer must be a text", hint=_A_LINE)
        return Question(prompt, answer, (), kind)
    if not isinstance(choices, list) or len(choices) < 2 or not all(isinstance(each, str) and each for each in choices):
        raise InputError(f"{path}, line {number}: choices must be a list of two texts or more", hint=_A_LINE)
    if isinstance(answer, int) and not isinstance(answer, bool) and 0 <= answer < len(choices):
        answer = choices[answer]
    if answer not in choices:
        raise InputError(f"{path}, line {number}: the answer is none of the choices", hint=_A_LINE)
    return Question(prompt, str(answer), tuple(choices), kind)


def answer_task(
    task: Task,
    model: Path,
    key: str,
    folder: Path,
    running: Running,
    *,
    max_tokens: int,
    progress: Progress,
    note: Callable[[str], None],
) -> tuple[tuple[bool, ...], int]:
    """Let a model answer all questions; say of each whether it was right, and how many could not be asked.

    Raises:
        As `ggufkit.evaluation.answers.asking`.
    """
    open_ones = [it for it in task.questions if not it.choices]
    closed = [it for it in task.questions if it.choices]
    replies: list[Reply] = []
    weights: list[list[float]] = []
    if open_ones:
        prompts = [it.prompt for it in open_ones]
        replies = replies_of(model, key, prompts, folder, running, max_tokens=max_tokens, progress=progress)
    if closed:
        asked = [(it.prompt, it.choices) for it in closed]
        weights = weights_of(model, key, asked, folder, running, progress=progress)
    return grade(task, replies, weights), check_asked(replies, model.name, f"questions of {task.name}", note)


def grade(task: Task, replies: Sequence[Reply], weights: Sequence[Sequence[float]]) -> tuple[bool, ...]:
    """Say of each question whether it was answered right.

    `replies` are those to the questions with an answer, in their order; `weights` the log-likelihoods of the choices
    of the others.
    """
    said, weighed = iter(replies), iter(weights)
    return tuple(_chose(it, next(weighed)) if it.choices else _is_right(it, next(said)) for it in task.questions)


def _is_right(question: Question, reply: Reply) -> bool:
    return reply.error is None and reply.text.split() == question.answer.split()


def _chose(question: Question, weights: Sequence[float]) -> bool:
    best = max(range(len(weights)), key=lambda place: weights[place])
    return question.choices[best] == question.answer


def task_result(task: Task, right: Sequence[bool], base: Sequence[bool] | None, unasked: int = 0) -> TaskResult:
    """Summarize a model's answers, paired with the base's."""
    by_kind: dict[str, list[bool]] = defaultdict(list)
    for question, good in zip(task.questions, right, strict=True):
        if question.kind:
            by_kind[question.kind].append(good)
    lost = gained = p_value = None
    if base is not None:
        lost = sum(theirs and not ours for ours, theirs in zip(right, base, strict=True))
        gained = sum(ours and not theirs for ours, theirs in zip(right, base, strict=True))
        p_value = mcnemar(lost, gained)
    kinds = {kind: accuracy(found) for kind, found in by_kind.items()}
    return TaskResult(task.name, accuracy(right), kinds, tuple(right), lost, gained, p_value, unasked)


def accuracy(right: Sequence[bool]) -> Accuracy:
    """Count, with Wilson's interval."""
    return accuracy_of(sum(right), len(right))


def accuracy_of(k: int, n: int) -> Accuracy:
    """Give the share of `k` right ones of `n` with Wilson's interval."""
    share, square = k / n, _Z * _Z
    middle = (share + square / (2 * n)) / (1 + square / n)
    half = _Z / (1 + square / n) * math.sqrt(share * (1 - share) / n + square / (4 * n * n))
    return Accuracy(k, n, max(0.0, middle - half), min(1.0, middle + half))


def mcnemar(lost: int, gained: int) -> float:
    """Return the two-sided p-value of McNemar's exact test for the numbers of questions on which two models differ."""
    n = lost + gained
    if n == 0:
        return 1.0
    tail: int = sum(math.comb(n, k) for k in range(min(lost, gained) + 1))
    return min(1.0, float(2 * tail / 2**n))
