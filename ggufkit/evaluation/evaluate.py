"""Models against their base on the same tokens: perplexity, KL divergence, top tokens; resumed after an interruption.

The base reads first; its log-probabilities go to a file of two bytes for each entry of the vocabulary and each scored
token. Every model then reads the same chunks, in a process of its own, and is compared token by token.
"""

import hashlib
import shutil
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ggufkit.errors import InputError, UsageError
from ggufkit.evaluation.answers.asking import Reply, replies_of
from ggufkit.evaluation.answers.generations import side_by_side
from ggufkit.evaluation.answers.tasks import Task, TaskResult, answer_task, task_result
from ggufkit.evaluation.baselines.results import Against, BaselineResult
from ggufkit.evaluation.evaluation_results import (
    DomainResult,
    Evaluation,
    ModelFacts,
    ModelResult,
    PairedResult,
    Speed,
)
from ggufkit.evaluation.likelihood import passes
from ggufkit.evaluation.likelihood.logits_file import estimated_bytes
from ggufkit.evaluation.likelihood.passes import Reading, Running
from ggufkit.evaluation.likelihood.statistics import compare_all, divergence, likelihood
from ggufkit.evaluation.likelihood.texts import DEFAULT_CHUNKS, DEFAULT_LENGTH, Chunks, cut_into_chunks
from ggufkit.evaluation.workplace import workplace
from ggufkit.files import PlannedFile, check_space
from ggufkit.gguf_file.parts import read_parts
from ggufkit.gguf_file.reader import GgufHeader
from ggufkit.progress import Progress, silent
from ggufkit.quantization.types import type_numbered

_KLD_COLUMN = 2


@dataclass(frozen=True, slots=True)
class EvaluationOptions:
    """How models are compared.

    Attributes:
        chunk_tokens: tokens of a chunk, of which the second half is scored.
        chunks: how many are read in all; None: all that the texts hold.
        running: threads, devices and caches, the same for all models.
        folder: where work lies that an interrupted run goes on with; None: in ggufkit's cache.
        keep_logits: keep the base's log-probabilities as this file, which llama-perplexity reads too.
        max_tokens: most tokens of a reply to a prompt or a question.
    """

    chunk_tokens: int = DEFAULT_LENGTH
    chunks: int | None = DEFAULT_CHUNKS
    running: Running = field(default_factory=Running)
    folder: Path | None = None
    keep_logits: Path | None = None
    max_tokens: int = 128

    def __post_init__(self) -> None:
        """Refuse values that make no sense. Raises UsageError."""
        if self.chunk_tokens < 16:
            raise UsageError(f"a chunk of {self.chunk_tokens} tokens is too short; 16 at least")
        if self.chunks is not None and self.chunks < 1:
            raise UsageError("--chunks must be positive")


def evaluate(
    base: Path,
    models: Sequence[Path],
    texts: Sequence[Path] = (),
    options: EvaluationOptions | None = None,
    *,
    prompts: Sequence[Mapping[str, Any]] = (),
    tasks: Sequence[Task] = (),
    against: Against | None = None,
    progress: Progress = silent,
    note: Callable[[str], None] = lambda text: None,  # noqa: ARG005 - the signature
) -> Evaluation:
    """Compare models with their base, a GGUF file or a checkpoint folder.

    They read texts, each of which is a domain; they answer `prompts` (as `ggufkit generate --batch` takes them), which
    are laid side by side; and they do `tasks`. One of the three must be there. The baselines that `against` names do
    all of that too.

    `note` gets what people should know before it takes long, such as the size of the file of log-probabilities.

    Raises:
        UsageError: options that make no sense, or nothing to do.
        InputError: a model has another vocabulary than the base; a text cannot be read, or is too short.
        OutputError: the disk has no room for the log-probabilities.
        LlamaCppError: llama.cpp failed, or died of a model.
    """
    options = options or EvaluationOptions()
    if not (texts or prompts or tasks):
        raise UsageError("there is nothing to measure", hint="give a text with -f, --prompts or --task")
    _check_texts(texts)
    parts = {model: read_parts(model) for model in models}
    settings = repr((options.chunk_tokens, options.chunks, options.running))
    read = [base] if base.is_dir() else [part.path for part in read_parts(base)]
    with workplace(options.folder, (*read, *texts), settings, note) as folder, ThreadPoolExecutor(1) as beside:
        base_model = _as_gguf(base, folder, options, progress) if base.is_dir() else base
        base_parts = read_parts(base_model)
        for model in models:
            check_same_vocabulary(base_parts[0], parts[model][0])
        if against:
            from ggufkit.evaluation.baselines.measure import check_against  # here, for it takes time to import

            check_against(against, base, _vocabulary_size(base_parts[0]))
        parts[base_model] = base_parts
        keyed = [(model, _key(parts[model])) for model in (base_model, *models)]
        hashes = {model: beside.submit(hashes_of, parts[model]) for model in (base_model, *models)}
        chunks = _cut(base_model, base_parts[0], texts, folder, options, note) if texts else None
        readings = _read(keyed, chunks, folder, options, progress) if chunks else None
        answers = _answers(keyed, prompts, tasks, folder, options, progress)
        rows = (
            _others(against, base, base_model, chunks, prompts, tasks, answers, folder, options, progress)
            if against
            else []
        )
        if chunks and options.keep_logits is not None:
            shutil.move(passes.base_file(folder, chunks).path, options.keep_logits)
        results = [
            _result(
                path,
                parts[model],
                readings[number] if readings else None,
                chunks,
                hashes[model],
                [
                    task_result(task, right[number], right[0] if number else None)
                    for task, right in zip(tasks, answers.right, strict=True)
                ],
                is_base=number == 0,
            )
            for number, (path, model) in enumerate(zip((base, *models), (base_model, *models), strict=True))
        ]
        differences = compare_all([reading.scores[:, :, _KLD_COLUMN] for reading in readings[1:]]) if readings else []
        return Evaluation(
            base=results[0],
            models=tuple(results[1:]),
            pairs=tuple(PairedResult(models[one].name, models[two].name, it) for one, two, it in differences),
            domains=chunks.domains if chunks else (),
            chunk_tokens=options.chunk_tokens,
            chunks=len(chunks.tokens) if chunks else 0,
            running=options.running,
            generations=side_by_side(prompts, answers.replies[0], answers.replies[1:]) if prompts else (),
            baselines=rows,
        )


@dataclass(frozen=True, slots=True)
class _Answers:
    """The replies of each model to the prompts; for each task, what each model got right. The base is the first."""

    replies: list[list[Reply]]
    right: list[list[tuple[bool, ...]]]


def _cut(
    base: Path,
    header: GgufHeader,
    texts: Sequence[Path],
    folder: Path,
    options: EvaluationOptions,
    note: Callable[[str], None],
) -> Chunks:
    vocabulary_size = _vocabulary_size(header)
    tokens = passes.tokenize(base, texts, folder, options.running)
    chunks = cut_into_chunks(texts, tokens, vocabulary_size, length=options.chunk_tokens, chunks=options.chunks)
    _say_what_it_takes(chunks, folder, note)
    return chunks


def _read(
    models: Sequence[tuple[Path, str]], chunks: Chunks, folder: Path, options: EvaluationOptions, progress: Progress
) -> list[Reading]:
    """Let the base read, the first of `models`, then the others; in the result it comes first too."""
    (base, _), *others = models
    first = passes.read_base(base, chunks, folder, options.running, progress)
    return [
        first,
        *(passes.read_against(model, key, chunks, folder, options.running, progress) for model, key in others),
    ]


def _answers(
    models: Sequence[tuple[Path, str]],
    prompts: Sequence[Mapping[str, Any]],
    tasks: Sequence[Task],
    folder: Path,
    options: EvaluationOptions,
    progress: Progress,
) -> _Answers:
    most, running = options.max_tokens, options.running
    replies = [
        replies_of(model, key, prompts, folder, running, max_tokens=most, progress=progress)
        for model, key in (models if prompts else ())
    ]
    right = [
        [answer_task(task, model, key, folder, running, max_tokens=most, progress=progress) for model, key in models]
        for task in tasks
    ]
    return _Answers(replies, right)


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
    from ggufkit.evaluation.baselines.measure import Questions, compare

    questions = Questions(
        base=base_model,
        vocabulary_size=_vocabulary_size(read_parts(base_model)[0]),
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


def check_same_vocabulary(base: GgufHeader, model: GgufHeader) -> None:
    """Refuse a model whose tokens are not the base's: their probabilities could not be compared.

    llama-perplexity only logs another count and goes on.

    Raises:
        InputError: naming the first token that differs.
    """
    ours, theirs = (header.metadata.get("tokenizer.ggml.tokens") for header in (base, model))
    if not isinstance(ours, list) or not isinstance(theirs, list):
        raise InputError(f"{(base if not isinstance(ours, list) else model).path} holds no vocabulary")
    if len(ours) != len(theirs):
        raise InputError(
            f"{model.path} has a vocabulary of {len(theirs):,} tokens, and {base.path} one of {len(ours):,}",
            hint="compare a model with the one that it was quantized from",
        )
    for number, (one, other) in enumerate(zip(ours, theirs, strict=True)):
        if one != other:
            raise InputError(
                f"token {number} is {other!r} in {model.path}, and {one!r} in {base.path}",
                hint="compare a model with the one that it was quantized from",
            )


def _as_gguf(checkpoint: Path, folder: Path, options: EvaluationOptions, progress: Progress) -> Path:
    """Convert the base, in its own 16-bit type, unless an interrupted run has done so."""
    from ggufkit.conversion import OutputType, convert

    path = folder / "base.gguf"
    if not path.exists():
        convert(checkpoint, path, outtype=OutputType.AUTO, threads=options.running.threads, progress=progress)
    return path


def _check_texts(texts: Sequence[Path]) -> None:
    for text in texts:
        if not text.is_file():
            raise InputError(f"no such text: {text}")


def _say_what_it_takes(chunks: Chunks, folder: Path, note: Callable[[str], None]) -> None:
    needed = estimated_bytes(chunks.vocabulary_size, chunks.length, len(chunks.tokens))
    there = sum(path.stat().st_size for path in folder.glob("base.logits"))
    check_space([PlannedFile(folder / "base.logits", max(0, needed - there))])
    error = 3.2 / (chunks.scored * len(chunks.tokens)) ** 0.5
    note(
        f"{len(chunks.tokens)} chunks of {chunks.length} tokens, of which"
        f" {chunks.scored * len(chunks.tokens):,} are scored: the perplexity is known to about {error:.1%};"
        f" the base's log-probabilities take {needed / 1e6:,.0f} MB on disk meanwhile"
    )


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


def facts_of(path: Path, parts: Sequence[GgufHeader], hashes: Mapping[str, str]) -> ModelFacts:
    """Say what a model is, from the headers of its files."""
    metadata = parts[0].metadata
    number = metadata.get("general.file_type")
    kind = type_numbered(number) if isinstance(number, int) else None
    tensors = [tensor for part in parts for tensor in part.tensors]
    elements = sum(tensor.elements for tensor in tensors)
    size = sum(tensor.size for tensor in tensors)
    blocks: dict[str, dict[int, str]] = defaultdict(dict)
    others: dict[str, str] = {}
    for tensor in tensors:
        first, _, rest = tensor.name.partition(".")
        block, _, name = rest.partition(".")
        if first == "blk" and block.isdigit():
            blocks[name][int(block)] = tensor.type.name
        else:
            others[tensor.name] = tensor.type.name
    return ModelFacts(
        path=path,
        name=str(metadata.get("general.name", path.stem)),
        architecture=str(metadata.get("general.architecture", "")),
        type=kind.name if kind else "unknown",
        bytes=sum(part.file_size for part in parts),
        elements=elements,
        bits_per_weight=8 * size / elements if elements else 0.0,
        hashes=hashes,
        imatrix=metadata.get("quantize.imatrix.file") is not None,
        block_types={name: dict(sorted(found.items())) for name, found in blocks.items()},
        other_types=others,
    )


def _vocabulary_size(header: GgufHeader) -> int:
    entry = header.metadata.entries.get("tokenizer.ggml.tokens")
    if entry is None:
        raise InputError(f"{header.path} holds no vocabulary, so no text can be given to it")
    return entry.count


def _key(parts: Sequence[GgufHeader]) -> str:
    """Name what a model's files are now: what was computed of others must not be taken for its."""
    stamps = [(str(part.path.absolute()), part.path.stat().st_size, part.path.stat().st_mtime_ns) for part in parts]
    return hashlib.sha256(repr(stamps).encode()).hexdigest()[:16]


def hashes_of(parts: Sequence[GgufHeader]) -> Mapping[str, str]:
    """Return the SHA-256 of each of a model's files, by name."""
    found = {}
    for part in parts:
        with part.path.open("rb", buffering=0) as file:
            found[part.path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found
