"""Answering a file of prompts: every answer is noted down as it comes, so that a run that was killed can go on.

The answers go to a journal beside the output, one line each: the number of the prompt's line, a digest of that line,
and the answer. When all are there they are written to the output in the order of the prompts.
"""

import contextlib
import functools
import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ggufkit import files
from ggufkit.errors import GgufkitError, InputError
from ggufkit.inference import batch_file
from ggufkit.inference.batch_engine import BatchEngine
from ggufkit.inference.batch_file import BatchLine
from ggufkit.inference.batch_journal import Journal, Lines, read_lines
from ggufkit.inference.batch_requests import BatchRequest
from ggufkit.inference.generation import GenerationResult
from ggufkit.inference.loaded_model import LoadedModel
from ggufkit.inference.options import EngineOptions, SamplingOptions
from ggufkit.inference.prompts import PromptMaker, PromptOptions
from ggufkit.inference.scores import as_json
from ggufkit.progress import Progress, silent


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchOptions:
    """What holds for all prompts of a file unless a line says otherwise.

    Attributes:
        prompts: how prompts are made.
        sampling: keyword arguments of `SamplingOptions`, over what the model's file asks for.
        max_tokens: most tokens of a reply; None leaves it to the model and the context.
        top_scores: give the log-probability of every token, and so many of the likeliest beside it; None: neither.
        sequences: how many prompts at once; None: as many as make sense.
        again: forget what an interrupted run has finished.
    """

    prompts: PromptOptions = field(default_factory=PromptOptions)
    sampling: Mapping[str, Any] = field(default_factory=dict)
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    top_scores: int | None = None
    sequences: int | None = None
    again: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSummary:
    """What became of a file of prompts.

    `bad` holds the numbers of lines without an answer, with the reasons; `resumed` counts the answers that were there.
    """

    prompts: int
    answered: int
    resumed: int
    bad: tuple[tuple[int, str], ...]
    prompt_tokens: int
    generated_tokens: int
    sequences: int
    context_size: int
    interrupted: bool


def run_file(
    model: Path,
    source: Path,
    output: Path,
    engine: EngineOptions,
    options: BatchOptions,
    *,
    progress: Progress = silent,
    on_engine: Callable[[BatchEngine], None] = lambda _: None,
    on_bad: Callable[[int, str], None] = lambda _number, _reason: None,
) -> BatchSummary:
    """Answer every line of a JSONL file into another one, in the same order.

    `on_engine` gets the engine once it is there, to interrupt it; `on_bad` each line that has no answer, with why.

    Raises:
        InputError: the file cannot be read, or is empty.
        UsageError: an interrupted run with other options or another model left answers.
        OutputError: the output cannot be written.
        GgufFileError, LlamaCppError: as `BatchEngine.open` and `run`.
    """
    files.check_output(output, inputs=[source, model])
    lines = read_lines(source)
    identity = _identity(model, engine, options)
    with files.resumable_output(output, size=0, keep_on=(GgufkitError,)) as partial:
        journal = Journal(partial.journal, identity, lines, again=options.again)
        with contextlib.closing(journal):
            job = _Job(lines, journal, options, on_bad)
            resumed = len(journal.offsets) - len(journal.resumed_bad)
            progress("Reading", 0, len(lines), "steps")
            with LoadedModel.open(model, replace(engine, vocabulary_only=True, adapters=())) as vocabulary:
                job.look_at(vocabulary, PromptMaker(vocabulary, options.prompts), progress)
                alone = vocabulary.context_size
            if job.waiting:
                sized = replace(engine, context_size=job.context_size)
                with BatchEngine.open(
                    model, sized, sequences=options.sequences, most=len(job.waiting), room_alone=alone
                ) as batch:
                    on_engine(batch)
                    try:
                        job.answer(batch, PromptMaker(batch, options.prompts), progress)
                    finally:
                        partial.worth_keeping = bool(journal.offsets)
            if job.interrupted:
                raise KeyboardInterrupt
            with partial.path.open("wb") as file:
                for number in range(len(lines)):
                    file.write(journal.read(number))
    return job.summary(resumed)


class _Job:
    """The lines that still want an answer, and what was counted on the way."""

    def __init__(
        self, lines: Lines, journal: Journal, options: BatchOptions, on_bad: Callable[[int, str], None]
    ) -> None:
        self._lines = lines
        self._journal = journal
        self._options = options
        self._on_bad = on_bad
        self._bad: list[tuple[int, str]] = []
        self.waiting: list[int] = []
        self.context_size = 0
        self.interrupted = False
        self._sequences = 0
        self._prompt_tokens = self._generated_tokens = 0

    def look_at(self, model: LoadedModel, maker: PromptMaker, progress: Progress) -> None:
        """Read all lines, refuse the bad ones, and find out how much room the longest of the others takes."""
        limit = model.context_size
        largest = 1
        for number in range(len(self._lines)):
            progress("Reading", number, len(self._lines), "steps")
            if number in self._journal.offsets:
                if (reason := self._journal.resumed_bad.get(number)) is not None:
                    self._tell(number, reason)
                continue
            try:
                line = batch_file.parse(self._lines[number])
                size = len(maker.tokens(line.prompt, line.messages, system=line.system))
                if not size:
                    raise InputError("the prompt is empty")
                if size > limit:
                    raise InputError(
                        f"the prompt has {size} tokens, but the context holds {limit} (-c makes it larger)"
                    )
            except GgufkitError as error:
                self._refuse(number, error)
                continue
            most = line.max_tokens or self._options.max_tokens
            largest = max(largest, min(limit, size + most) if most else limit)
            self.waiting.append(number)
        self.context_size = largest

    def answer(self, engine: BatchEngine, maker: PromptMaker, progress: Progress) -> None:
        """Have the model answer what waits."""
        self._sequences = engine.sequences
        defaults = replace(engine.sampling_defaults(), **self._options.sampling)
        total, done = len(self.waiting), 0
        progress("Answering", 0, total, "steps")
        prompts: dict[int, tuple[BatchLine, list[int]]] = {}

        def requests() -> Iterator[BatchRequest]:
            for number in self.waiting:
                line = batch_file.parse(self._lines[number])
                tokens = maker.tokens(line.prompt, line.messages, system=line.system)
                prompts[number] = line, tokens
                yield BatchRequest(
                    key=number,
                    tokens=tuple(tokens),
                    sampling=replace(defaults, **line.sampling),
                    max_tokens=line.max_tokens or self._options.max_tokens,
                    stop=self._options.stop if line.stop is None else line.stop,
                    top_scores=self._options.top_scores,
                    spelled=maker.spelled,
                )

        for number, result in engine.run(requests()):
            line, tokens = prompts.pop(number)
            if isinstance(result, GgufkitError):
                self._refuse(number, result)
            else:
                splitter = maker.splitter(tokens)
                splitter.feed(result.text)
                splitter.finish()
                self._prompt_tokens += result.prompt_tokens
                self._generated_tokens += result.generated_tokens
                self._journal.add(
                    number,
                    {
                        **line.carried,
                        "line": self._lines.number(number),
                        "text": splitter.answer,
                        **({"reasoning": splitter.reasoning} if splitter.reasoning else {}),
                        **_details(engine, result),
                    },
                )
            done += 1
            progress("Answering", done, total, "steps")
        self.interrupted = done < total

    def summary(self, resumed: int) -> BatchSummary:
        """Sum up."""
        return BatchSummary(
            prompts=len(self._lines),
            answered=len(self._lines) - len(self._bad),
            resumed=resumed,
            bad=tuple(self._bad),
            prompt_tokens=self._prompt_tokens,
            generated_tokens=self._generated_tokens,
            sequences=self._sequences,
            context_size=self.context_size,
            interrupted=self.interrupted,
        )

    def _refuse(self, number: int, error: GgufkitError) -> None:
        at = self._tell(number, str(error))
        self._journal.add(number, {**batch_file.carried(self._lines[number]), "line": at, "error": str(error)})

    def _tell(self, number: int, reason: str) -> int:
        """Count a line as bad; return its number in the file."""
        at = self._lines.number(number)
        self._bad.append((at, reason))
        self._on_bad(at, reason)
        return at


def _details(model: LoadedModel, result: GenerationResult) -> dict[str, Any]:
    details: dict[str, Any] = {
        "finish_reason": result.finish_reason,
        "prompt_tokens": result.prompt_tokens,
        "generated_tokens": result.generated_tokens,
        "seed": result.seed,
    }
    if result.scores is not None:
        details["logprobs"] = as_json(result.scores, functools.partial(model.token_bytes, special=True))
    return details


def _identity(model: Path, engine: EngineOptions, options: BatchOptions) -> str:
    """Return a digest of all that answers depend on but the prompts."""

    def file(path: Path) -> tuple[object, ...]:
        stat = path.stat() if path.exists() else None
        return (str(path.resolve()), *((stat.st_size, stat.st_mtime_ns) if stat else ()))

    told = (
        *file(model),
        *((*file(each.path), each.scale) for each in engine.adapters),
        engine.context_size,
        engine.cache_type_k,
        engine.cache_type_v,
        str(SamplingOptions(**options.sampling)),
        sorted(options.sampling),
        str(replace(options, sequences=None, again=False, sampling={})),
    )
    return hashlib.sha256(repr(told).encode()).hexdigest()
