"""What is asked of every system, and how it is cut into tokens: all are given the same ids."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ggufkit.evaluation.answers.asking import Reply
from ggufkit.evaluation.answers.tasks import Task
from ggufkit.evaluation.baselines import vocabulary
from ggufkit.evaluation.likelihood.texts import Chunks


@dataclass(frozen=True, slots=True, kw_only=True)
class Questions:
    """What is asked of every system, and what the base has answered.

    Attributes:
        base: the GGUF file whose vocabulary cuts all text.
        vocabulary_size: its entries.
        chunks: the text, whose log-probabilities by the base lie in `folder`; None without a text.
        prompts: to be continued; `replies` are the base's.
        tasks: with `right`, what the base got right in each.
        max_tokens: of a reply.
        folder: where work lies that an interrupted run goes on with.
        threads: how many to use; None: as many as llama.cpp would.
    """

    base: Path
    vocabulary_size: int
    chunks: Chunks | None
    prompts: Sequence[Mapping[str, Any]]
    replies: Sequence[Reply]
    tasks: Sequence[Task]
    right: Sequence[Sequence[bool]]
    max_tokens: int
    folder: Path
    threads: int | None


def cut_into_tokens(questions: Questions, folder: Path, *, plain: int) -> vocabulary.Cut:
    """Have everything that is asked cut into tokens: prompts first, then the open questions of each task.

    `plain` tokens are ordinary ones, to time with.

    Raises:
        LlamaCppError: the base's vocabulary cannot be read.
    """
    open_ones = [it.prompt for task in questions.tasks for it in task.questions if not it.choices]
    closed = [(it.prompt, it.choices) for task in questions.tasks for it in task.questions if it.choices]
    chunks = questions.chunks
    return vocabulary.cut(
        questions.base,
        [*questions.prompts, *open_ones],
        closed,
        [(domain.path, domain.chunks * chunks.length) for domain in chunks.domains] if chunks else [],
        folder,
        plain=plain,
    )


def ids_of_chunks(questions: Questions, bos: int | None) -> list[list[int]]:
    """Return the ids of the text as llama-perplexity gives them: BOS in place of the first, if the model wants."""
    if questions.chunks is None:
        return []
    begin = [] if bos is None else [bos]
    return [[*begin, *chunk[len(begin) :]] for chunk in questions.chunks.tokens]
