"""Models against their base on the same tokens: perplexity, KL divergence, top tokens; resumed after an interruption.

The base reads first; its log-probabilities go to a file of two bytes for each entry of the vocabulary and each scored
token. Every model then reads the same chunks, in a process of its own, and is compared token by token.
"""

import hashlib
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from ggufkit.conversion import OutputType, convert
from ggufkit.errors import InputError, UsageError
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
from ggufkit.files import PlannedFile, check_space
from ggufkit.gguf_file.parts import read_parts
from ggufkit.gguf_file.reader import GgufHeader
from ggufkit.llamacpp.find import cache_folder
from ggufkit.progress import Progress, silent
from ggufkit.quantization.types import type_numbered

_KLD_COLUMN = 2
_PIECE = 1 << 20


@dataclass(frozen=True, slots=True)
class EvaluationOptions:
    """How models are compared.

    Attributes:
        chunk_tokens: tokens of a chunk, of which the second half is scored.
        chunks: how many are read in all; None: all that the texts hold.
        running: threads, devices and caches, the same for all models.
        folder: where work lies that an interrupted run goes on with; None: in ggufkit's cache.
        keep_logits: keep the base's log-probabilities as this file, which llama-perplexity reads too.
    """

    chunk_tokens: int = DEFAULT_LENGTH
    chunks: int | None = DEFAULT_CHUNKS
    running: Running = field(default_factory=Running)
    folder: Path | None = None
    keep_logits: Path | None = None

    def __post_init__(self) -> None:
        """Refuse values that make no sense. Raises UsageError."""
        if self.chunk_tokens < 16:
            raise UsageError(f"a chunk of {self.chunk_tokens} tokens is too short; 16 at least")
        if self.chunks is not None and self.chunks < 1:
            raise UsageError("--chunks must be positive")


def evaluate(
    base: Path,
    models: Sequence[Path],
    texts: Sequence[Path],
    options: EvaluationOptions | None = None,
    *,
    progress: Progress = silent,
    note: Callable[[str], None] = lambda text: None,  # noqa: ARG005 - the signature
) -> Evaluation:
    """Compare models with their base, a GGUF file or a checkpoint folder, on texts, each of which is a domain.

    `note` gets what people should know before it takes long, such as the size of the file of log-probabilities.

    Raises:
        UsageError: options that make no sense.
        InputError: a model has another vocabulary than the base; a text cannot be read, or is too short.
        OutputError: the disk has no room for the log-probabilities.
        LlamaCppError: llama.cpp failed, or died of a model.
    """
    options = options or EvaluationOptions()
    _check_texts(texts)
    parts = {model: read_parts(model) for model in models}
    with _workplace(base, texts, options) as folder, ThreadPoolExecutor(1) as beside:
        base_model = _as_gguf(base, folder, options, progress) if base.is_dir() else base
        base_parts = read_parts(base_model)
        for model in models:
            check_same_vocabulary(base_parts[0], parts[model][0])
        vocabulary_size = _vocabulary_size(base_parts[0])
        tokens = passes.tokenize(base_model, texts, folder, options.running)
        chunks = cut_into_chunks(texts, tokens, vocabulary_size, length=options.chunk_tokens, chunks=options.chunks)
        _say_what_it_takes(chunks, folder, note)
        hashes = {path: beside.submit(_sha256, path) for path in (base_model, *models)}
        base_reading = passes.read_base(base_model, chunks, folder, options.running, progress)
        readings = [
            passes.read_against(model, _key(model), chunks, folder, options.running, progress) for model in models
        ]
        if options.keep_logits is not None:
            shutil.move(passes.base_file(folder, chunks).path, options.keep_logits)
        return Evaluation(
            base=_base_result(base, base_parts, base_reading, chunks, hashes[base_model]),
            models=tuple(
                _model_result(model, parts[model], reading, chunks, hashes[model])
                for model, reading in zip(models, readings, strict=True)
            ),
            pairs=tuple(
                PairedResult(models[first].name, models[second].name, difference)
                for first, second, difference in compare_all([r.scores[:, :, _KLD_COLUMN] for r in readings])
            ),
            domains=chunks.domains,
            chunk_tokens=chunks.length,
            chunks=len(chunks.tokens),
            running=options.running,
        )


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


@contextmanager
def _workplace(base: Path, texts: Sequence[Path], options: EvaluationOptions) -> Iterator[Path]:
    """A folder that the same evaluation finds again when it was interrupted; gone when it ended well."""
    digest = hashlib.sha256()
    for path in (base, *texts):
        status = path.stat()
        digest.update(f"{path.absolute()} {status.st_size} {status.st_mtime_ns}\n".encode())
    digest.update(repr((options.chunk_tokens, options.chunks, options.running)).encode())
    folder = (options.folder or cache_folder() / "evaluations") / digest.hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def _as_gguf(checkpoint: Path, folder: Path, options: EvaluationOptions, progress: Progress) -> Path:
    """Convert the base, in its own 16-bit type, unless an interrupted run has done so."""
    path = folder / "base.gguf"
    if not path.exists():
        convert(checkpoint, path, outtype=OutputType.AUTO, threads=options.running.threads, progress=progress)
    return path


def _check_texts(texts: Sequence[Path]) -> None:
    if not texts:
        raise UsageError("there is no text to read", hint="give one with -f")
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


def _base_result(
    base: Path, parts: Sequence[GgufHeader], reading: Reading, chunks: Chunks, sha256: Future[str]
) -> ModelResult:
    nll = reading.scores[:, :, 0]
    return ModelResult(
        facts=facts_of(base, parts, sha256.result()),
        likelihood=likelihood(nll),
        divergence=None,
        domains=tuple(DomainResult(d.name, likelihood(nll[chunks.of_domain(d.name)]), None) for d in chunks.domains),
        speed=_speed(reading),
    )


def _model_result(
    model: Path, parts: Sequence[GgufHeader], reading: Reading, chunks: Chunks, sha256: Future[str]
) -> ModelResult:
    whole = divergence(reading.scores)
    domains = []
    for domain in chunks.domains:
        part = divergence(reading.scores[chunks.of_domain(domain.name)])
        domains.append(DomainResult(domain.name, part.likelihood, part))
    return ModelResult(
        facts=facts_of(model, parts, sha256.result()),
        likelihood=whole.likelihood,
        divergence=whole,
        domains=tuple(domains),
        speed=_speed(reading),
    )


def _speed(reading: Reading) -> Speed:
    return Speed(reading.tokens_per_second, reading.load_seconds, reading.peak_bytes, reading.seconds)


def facts_of(path: Path, parts: Sequence[GgufHeader], sha256: str) -> ModelFacts:
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
        sha256=sha256,
        imatrix=metadata.get("quantize.imatrix.file") is not None,
        block_types={name: dict(sorted(found.items())) for name, found in blocks.items()},
        other_types=others,
    )


def _vocabulary_size(header: GgufHeader) -> int:
    entry = header.metadata.entries.get("tokenizer.ggml.tokens")
    if entry is None:
        raise InputError(f"{header.path} holds no vocabulary, so no text can be given to it")
    return entry.count


def _key(model: Path) -> str:
    status = model.stat()
    return hashlib.sha256(f"{model.absolute()} {status.st_size} {status.st_mtime_ns}".encode()).hexdigest()[:16]


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while piece := file.read(_PIECE):
            digest.update(piece)
    return digest.hexdigest()
