"""From what a baseline's child has answered to a row of the table, graded and scored as GGUF files are."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggufkit.evaluation.answers.asking import Reply
from ggufkit.evaluation.answers.generations import agreement
from ggufkit.evaluation.answers.tasks import TaskResult, grade, task_result
from ggufkit.evaluation.baselines import vocabulary
from ggufkit.evaluation.baselines.questions import Questions
from ggufkit.evaluation.baselines.results import Against, BaselineResult, Footprint, Origin, Rate
from ggufkit.evaluation.baselines.runners.adapter import Baseline
from ggufkit.evaluation.likelihood.statistics import divergence, likelihood


def row_of(
    baseline: Baseline,
    answers: Mapping[str, Any],
    scores: NDArray[np.float32] | None,
    questions: Questions,
    cut: vocabulary.Cut,
    against: Against,
    folder: Path,
) -> BaselineResult:
    """Make the row of a baseline; `scores`, float32 [chunks, scored, 4], are of the text, None without one.

    Raises:
        LlamaCppError: the base's vocabulary cannot be read.
    """
    apart = None if scores is None else divergence(scores)
    replies = _replies(answers, questions, cut, folder)
    own, rest = replies[: len(questions.prompts)], replies[len(questions.prompts) :]
    return BaselineResult(
        name=baseline.name,
        title=baseline.title,
        origin=Origin.HERE,
        versions=answers["versions"],
        footprint=_footprint(answers, against),
        likelihood=None if scores is None else likelihood(scores[:, :, 0]),
        divergence=apart,
        mean_kld=apart.mean_kld if apart else None,
        tasks=_tasks(answers, questions, rest),
        replies=[(mine, agreement(base, mine)) for mine, base in zip(own, questions.replies, strict=True)],
    )


def not_run(baseline: Baseline, why: str) -> BaselineResult:
    """Make the row of a baseline that could not run."""
    return BaselineResult(name=baseline.name, title=baseline.title, origin=Origin.NOT_RUN, why=why)


def _tasks(answers: Mapping[str, Any], questions: Questions, replies: list[Reply]) -> list[TaskResult]:
    said, weighed = iter(replies), iter(answers["weights"])
    tasks = []
    for task, right in zip(questions.tasks, questions.right, strict=True):
        open_ones = [next(said) for it in task.questions if not it.choices]
        closed = [next(weighed) for it in task.questions if it.choices]
        tasks.append(task_result(task, grade(task, open_ones, closed), right))
    return tasks


def _footprint(answers: Mapping[str, Any], against: Against) -> Footprint:
    return Footprint(
        disk_bytes=answers["disk_bytes"],
        weight_bytes=answers["weight_bytes"],
        loaded_bytes=answers["loaded_bytes"],
        peak_bytes=answers["peak_bytes"],
        load_seconds=answers["load_seconds"],
        prepare_seconds=answers["prepare_seconds"],
        prompt_tokens=against.prompt_tokens,
        prompt=Rate.of(answers["prompt_samples"]),
        generated_tokens=against.generated_tokens,
        generation=Rate.of(answers["generation_samples"]),
    )


def _replies(answers: Mapping[str, Any], questions: Questions, cut: vocabulary.Cut, folder: Path) -> list[Reply]:
    """Put texts to the ids, and the reasons where there was nothing to ask."""
    there = [tokens for tokens in cut.prompts if not isinstance(tokens, str)]
    found = answers["replies"]
    pairs = [(prompt, it["tokens"]) for prompt, it in zip(there, found, strict=True)]
    texts = iter(vocabulary.spell(questions.base, pairs, folder) if pairs else [])
    each = iter(found)
    replies = []
    for tokens in cut.prompts:
        if isinstance(tokens, str):
            replies.append(Reply("", (), "", tokens))
        else:
            it = next(each)
            replies.append(Reply(next(texts), tuple(it["tokens"]), it["finish_reason"]))
    return replies
