"""Models against their base on the same tokens: perplexity, KL divergence, top tokens; resumed after an interruption.

The base reads first; its log-probabilities go to a file of two bytes for each entry of the vocabulary and each scored
token. Every model then reads the same chunks, in a process of its own, and is compared token by token.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ggufkit.errors import UsageError
from ggufkit.evaluation import reading
from ggufkit.evaluation.answers.asking import Reply, check_asked, replies_of
from ggufkit.evaluation.answers.generations import side_by_side
from ggufkit.evaluation.answers.tasks import Task, TaskResult, answer_task, task_result
from ggufkit.evaluation.baselines.results import Against, BaselineResult
from ggufkit.evaluation.calibration import find_calibration
from ggufkit.evaluation.child_process import one_for_all, release
from ggufkit.evaluation.evaluation_results import (
    DomainResult,
    Evaluation,
    ModelResult,
    PairedResult,
    Speed,
)
from ggufkit.evaluation.head_start import HeadStart
from ggufkit.evaluation.likelihood import passes
from ggufkit.evaluation.likelihood.passes import Reading
from ggufkit.evaluation.likelihood.statistics import compare_all, divergence, likelihood
from ggufkit.evaluation.likelihood.texts import Chunks
from ggufkit.evaluation.models import check_same_vocabulary, facts_of, hashes_of, key_of, vocabulary_size
from ggufkit.evaluation.names import check_named_once, told_apart
from ggufkit.evaluation.options import EvaluationOptions
from ggufkit.evaluation.workplace import workplace
from ggufkit.gguf_file.parts import read_parts
from ggufkit.gguf_file.reader import GgufHeader
from ggufkit.progress import Progress, silent

__all__ = ["EvaluationOptions", "evaluate"]

_KLD_COLUMN = 2


def evaluate(
    base: Path,
    models: Sequence[Path],
    texts: Sequence[Path] = (),
    options: EvaluationOptions | None = None,
    *,
    prompts: Sequence[Mapping[str, Any]] = (),
    tasks: Sequence[Task] = (),
    against: Against | None = None,
    begun: HeadStart | None = None,
    progress: Progress = silent,
    note: Callable[[str], None] = lambda text: None,  # noqa: ARG005 - the signature
) -> Evaluation:
    """Compare models with their base, a GGUF file or a checkpoint folder.

    They read texts, each of which is a domain; they answer `prompts` (as `ggufkit generate --batch` takes them), which
    are laid side by side; and they do `tasks`. One of the three must be there. The baselines that `against` names do
    all of that too.

    `begun` is what a `head_start` has done of it. `note` gets what people should know before it takes long, such as the
    size of the file of log-probabilities.

    Raises:
        UsageError: options that make no sense, or nothing to do.
        InputError: a model has another vocabulary than the base; a text cannot be read, or is too short.
        OutputError: the disk has no room for the log-probabilities.
        LlamaCppError: llama.cpp failed, or died of a model.
    """
    options = options or EvaluationOptions()
    if not (texts or prompts or tasks):
        raise UsageError("there is nothing to measure", hint="give a text with -f, --prompts or --task")
    check_named_once(models, "model")
    check_named_once(texts, "text")
    check_named_once([task.path for task in tasks], "task")
    tasks = _told_apart(tasks)
    if options.calibration and not texts:
        raise UsageError("--calibration is compared with a text", hint="-f TEXT")
    reading.check_texts(texts)
    parts = {model: read_parts(model) for model in models}
    told = {model: facts_of(model, found, {}).calibration for model, found in parts.items()}
    calibration, not_here = find_calibration(options.calibration, told)
    settings = repr((options.chunk_tokens, options.chunks, options.running))
    read = [base] if base.is_dir() else [part.path for part in read_parts(base)]
    with (
        workplace(options.folder, (*read, *texts), settings, note) as folder,
        ThreadPoolExecutor(1) as beside,
        one_for_all(),
    ):
        base_model = _as_gguf(base, folder, options, progress) if base.is_dir() else base
        base_parts = read_parts(base_model)
        for model in models:
            check_same_vocabulary(base_parts[0], parts[model][0])
        if against:
            from ggufkit.evaluation.baselines.measure import check_against  # here, for it takes time to import

            check_against(against, base, vocabulary_size(base_parts[0]))
        parts[base_model] = base_parts
        keyed = [(model, key_of(parts[model])) for model in (base_model, *models)]
        hashes = {model: beside.submit(hashes_of, parts[model]) for model in (base_model, *models)}
        chunks = reading.cut(base_model, base_parts[0], texts, folder, options, note, begun) if texts else None
        checked = reading.compare_with_calibration(base_model, chunks, calibration, not_here, folder, options, note)
        readings = reading.read(keyed, chunks, folder, options, progress) if chunks else None
        answers = _answers(keyed, prompts, tasks, folder, options, progress, note)
        rows = (
            _others(against, base, base_model, chunks, prompts, tasks, answers, folder, options, progress)
            if against
            else []
        )
        release()  # it ends while we count
        if chunks and options.keep_logits is not None:
            reading.keep(passes.base_file(folder, chunks).path, options.keep_logits)
        results = [
            _result(
                path,
                parts[model],
                readings[number] if readings else None,
                chunks,
                hashes[model],
                [
                    task_result(task, right[number], right[0] if number else None, unasked[number])
                    for task, right, unasked in zip(tasks, answers.right, answers.unasked, strict=True)
                ],
                is_base=number == 0,
            )
            for number, (path, model) in enumerate(zip((base, *models), (base_model, *models), strict=True))
        ]
        names = told_apart((base, *models))
        differences = compare_all([each.scores[:, :, _KLD_COLUMN] for each in readings[1:]]) if readings else []
        return Evaluation(
            base=results[0],
            models=tuple(results[1:]),
            pairs=tuple(PairedResult(names[1 + one], names[1 + two], it) for one, two, it in differences),
            domains=chunks.domains if chunks else (),
            chunk_tokens=options.chunk_tokens,
            chunks=len(chunks.tokens) if chunks else 0,
            running=options.running,
            calibration=checked,
            generations=side_by_side(prompts, answers.replies[0], answers.replies[1:]) if prompts else (),
            baselines=rows,
        )


def _told_apart(tasks: Sequence[Task]) -> list[Task]:
    names = told_apart([task.path for task in tasks], [task.name for task in tasks])
    return [replace(task, name=name) for task, name in zip(tasks, names, strict=True)]


@dataclass(frozen=True, slots=True)
class _Answers:
    """The replies of each model to the prompts; for each task, what each model got right. The base is the first.

    `unasked` has how many questions could not be asked.
    """

    replies: list[list[Reply]]
    right: list[list[tuple[bool, ...]]]
    unasked: list[list[int]]


def _answers(
    models: Sequence[tuple[Path, str]],
    prompts: Sequence[Mapping[str, Any]],
    tasks: Sequence[Task],
    folder: Path,
    options: EvaluationOptions,
    progress: Progress,
    note: Callable[[str], None],
) -> _Answers:
    most, running = options.max_tokens, options.running
    replies = [
        replies_of(model, key, prompts, folder, running, max_tokens=most, progress=progress)
        for model, key in (models if prompts else ())
    ]
    for (model, _), given in zip(models, replies, strict=False):
        check_asked(given, model.name, "prompts", note)
    answered = [
        [
            answer_task(task, model, key, folder, running, max_tokens=most, progress=progress, note=note)
            for model, key in models
        ]
        for task in tasks
    ]
    right = [[good for good, _ in each] for each in answered]
    return _Answers(replies, right, [[unasked for _, unasked in each] for each in answered])


def _others(
    against: Against,
    base: Path,
    base_model: Path,
    chunks: Chunks | None,
    prompts: Sequence[Mapping[str, Any]],
    tasks: Sequence[Task],
    answers: _Answers,
    folder: Path,
    options: EvaluationOptions,
    progress: Progress,
) -> Sequence[BaselineResult]:
    """Let the baselines read the same chunks, answer the same prompts and do the same tasks."""
    from ggufkit.evaluation.baselines.measure import compare
    from ggufkit.evaluation.baselines.questions import Questions

    questions = Questions(
        base=base_model,
        vocabulary_size=vocabulary_size(read_parts(base_model)[0]),
        chunks=chunks,
        prompts=prompts,
        replies=answers.replies[0] if prompts else (),
        tasks=tasks,
        right=[right[0] for right in answers.right],
        max_tokens=options.max_tokens,
        folder=folder,
        threads=options.running.threads,
    )
    return compare(against, against.checkpoint or base, questions, progress)


def _as_gguf(checkpoint: Path, folder: Path, options: EvaluationOptions, progress: Progress) -> Path:
    """Convert the base, in its own 16-bit type, unless an interrupted run has done so."""
    from ggufkit.conversion import OutputType, convert

    path = folder / "base.gguf"
    if not path.exists():
        convert(checkpoint, path, outtype=OutputType.AUTO, threads=options.running.threads, progress=progress)
    return path


def _result(
    path: Path,
    parts: Sequence[GgufHeader],
    reading: Reading | None,
    chunks: Chunks | None,
    hashes: Future[Mapping[str, str]],
    tasks: Sequence[TaskResult],
    *,
    is_base: bool,
) -> ModelResult:
    facts = facts_of(path, parts, hashes.result())
    if reading is None or chunks is None:
        return ModelResult(facts, None, None, (), None, tasks)
    domains = []
    for domain in chunks.domains:
        part = reading.scores[chunks.of_domain(domain.name)]
        apart = None if is_base else divergence(part)
        domains.append(DomainResult(domain.name, likelihood(part[:, :, 0]), apart))
    whole = None if is_base else divergence(reading.scores)
    return ModelResult(facts, likelihood(reading.scores[:, :, 0]), whole, tuple(domains), _speed(reading), tasks)


def _speed(reading: Reading) -> Speed:
    return Speed(reading.tokens_per_second, reading.load_seconds, reading.peak_bytes, reading.seconds)
