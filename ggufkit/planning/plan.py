"""The whole plan of a model: one line for every type, and which of them to take."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from ggufkit.checkpoints.hub_selection import RemoteGguf
from ggufkit.inference.attention import attention
from ggufkit.inference.options import CacheType, EngineOptions, FlashAttention
from ggufkit.llamacpp import cpu
from ggufkit.llamacpp import memory as libllama
from ggufkit.llamacpp.memory import Caches, Setting
from ggufkit.llamacpp.speed import Speeds
from ggufkit.planning import advice, memory, quality, speed, survey
from ggufkit.planning.advice import Advice
from ggufkit.planning.memory import DEFAULT_CONTEXT, Fit, Memory, MemoryModel
from ggufkit.planning.quality import Quality
from ggufkit.planning.row import Row
from ggufkit.planning.subject import Origin, Subject, opened
from ggufkit.planning.survey import Surveyed
from ggufkit.quantization.plan import PlannedTensor, QuantizeOptions
from ggufkit.quantization.types import TYPES, QuantizationType

_OTHER_CONTEXTS = (2048, 8192, 32768, 131072)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanOptions:
    """What to plan for. Sizes in bytes; None means this machine's.

    Attributes:
        context_size: tokens; None: what `ggufkit chat` takes, 0: what the model was trained for.
        cache_type_k: ggml type of the keys, in lower case.
        cache_type_v: ggml type of the values.
        flash_attention: auto, on or off.
        batch_size: tokens handed over at once.
        micro_batch_size: tokens computed at once.
        ram: the memory of the machine that it shall run on.
        vram: the memory of its GPU; None: not asked for.
        threads: for the speed; None: the physical cores that we may use.
        measure_speed: False leaves the speed out.
        measure_again: do not only believe what was measured on this machine before.
        types: which types to plan for.
        quantize: as for quantizing; an importance matrix here is counted into the sizes.
    """

    context_size: int | None = None
    cache_type_k: str = "f16"
    cache_type_v: str = "f16"
    flash_attention: str = "auto"
    batch_size: int = 2048
    micro_batch_size: int = 512
    ram: int | None = None
    vram: int | None = None
    threads: int | None = None
    measure_speed: bool = True
    measure_again: bool = False
    types: Sequence[QuantizationType] = TYPES
    quantize: QuantizeOptions = field(default_factory=QuantizeOptions)


@dataclass(frozen=True, slots=True)
class ModelPlan:
    """What is known about a model before anything is done. Bytes, bits per weight, nats, tokens per second."""

    source: str
    origin: Origin
    architecture: str
    model: str  # its fingerprint, by which own measurements are found
    elements: int
    source_bytes: int
    download_bytes: int
    context_size: int
    training_context: int | None
    ram: int
    vram: int | None
    caches: tuple[Caches, ...]  # of the setting asked for, then of some other context sizes
    memory_failure: str | None
    rows: tuple[Row, ...]  # the largest file first
    refused: Mapping[str, str]  # types that cannot be made, and why
    advice: Advice | None
    ready: tuple[RemoteGguf, ...]
    speeds: Speeds | None
    warnings: tuple[str, ...]


def plan(source: str | Path, options: PlanOptions | None = None) -> ModelPlan:
    """Plan for a checkpoint folder, a GGUF file, or a repository on the hub. Reads, or fetches, headers only.

    Raises:
        CheckpointError, GgufFileError: the source is not there, incomplete or malformed.
        UnsupportedArchitectureError: no spec of ours converts it, so nothing can be planned before that is done.
        HubError: the repository cannot be read.
        MissingDependencyError: llama.cpp is not built.
    """
    options = options or PlanOptions()
    with libllama.child() as attendant, opened(str(source)) as subject, ThreadPoolExecutor(1) as pool:
        settings = _settings(subject, options)
        to_come = pool.submit(memory.ask, subject.file, subject.headers, settings, libllama.asking_of(attendant))
        surveyed = survey.survey(subject, options.types, options.quantize)
        asked = to_come.result()
        # Last and alone, for whatever else is running would be measured with it.
        speeds = speed.machine_speeds(options.threads, again=options.measure_again) if options.measure_speed else None
        return _assemble(subject, options, surveyed, asked, speeds, settings[0].context_size)


def _settings(subject: Subject, options: PlanOptions) -> list[Setting]:
    trained = subject.headers[0].metadata.get(f"{subject.architecture}.context_length")
    most = trained if isinstance(trained, int) and trained > 0 else DEFAULT_CONTEXT
    wanted = min(most, DEFAULT_CONTEXT) if options.context_size is None else options.context_size or most
    engine = EngineOptions(
        cache_type_k=CacheType(options.cache_type_k),
        cache_type_v=CacheType(options.cache_type_v),
        flash_attention=FlashAttention(options.flash_attention),
        batch_size=options.batch_size,
        micro_batch_size=options.micro_batch_size,
    )

    def setting(size: int) -> Setting:
        chosen = attention(engine, subject.headers[0], size, on_cpu=options.vram is None)
        return Setting(
            size,
            options.cache_type_k,
            options.cache_type_v,
            chosen.flash,
            options.batch_size,
            chosen.micro_batch_size,
        )

    return [setting(size) for size in (wanted, *(size for size in _OTHER_CONTEXTS if size <= most and size != wanted))]


def _assemble(
    subject: Subject,
    options: PlanOptions,
    surveyed: Sequence[Surveyed],
    asked: MemoryModel,
    speeds: Speeds | None,
    context_size: int,
) -> ModelPlan:
    ram = options.ram if options.ram is not None else cpu.usable_memory()
    model = quality.fingerprint(subject.headers)
    with_imatrix = options.quantize.imatrix is not None
    weights = {
        (each.type.name, each.needs_imatrix or with_imatrix): sum(tensor.bytes_after for tensor in each.plan.tensors)
        for each in surveyed
        if each.plan
    }
    measured = quality.measured(model, _folders(subject), weights)
    metadata = subject.headers[0].metadata
    source_bytes = sum(header.file_size for header in subject.headers)

    def row(kind: QuantizationType | None, size: int, tensors: tuple[PlannedTensor, ...], each: Surveyed | None) -> Row:
        takes = asked.of(size, tensors)
        needs_imatrix = each is not None and each.needs_imatrix
        imatrix = needs_imatrix or with_imatrix
        return Row(
            type=kind,
            bytes=size,
            tensors=tensors,
            fallbacks=each.plan.fallbacks if each and each.plan else (),
            needs_imatrix=needs_imatrix,
            memory=takes,
            fit=takes.fits(ram) if takes else None,
            fits_vram=_fits_vram(takes, options.vram),
            quality=_quality(kind.name, measured, with_imatrix=imatrix) if kind else None,
            tokens_per_second=speed.tokens_per_second(tensors, speeds, metadata) if speeds else None,
            disk=_disk(subject, source_bytes, size if kind else 0, needs_imatrix=needs_imatrix),
        )

    rows = [row(each.type, each.plan.bytes_after, each.plan.tensors, each) for each in surveyed if each.plan]
    if subject.is_quantized and not options.quantize.allow_requantize:
        rows = [each for each in rows if any(tensor.to is not tensor.was for tensor in each.tensors)]
        rows.append(row(None, source_bytes, _unchanged(subject), None))
    rows.sort(key=lambda each: -each.bytes)
    answer = asked.answer
    return ModelPlan(
        source=subject.name,
        origin=subject.origin,
        architecture=subject.architecture,
        model=model,
        elements=sum(header.elements for header in subject.headers),
        source_bytes=subject.source_bytes,
        download_bytes=subject.download_bytes,
        context_size=context_size,
        training_context=answer.training_context if answer else None,
        ram=ram,
        vram=options.vram,
        caches=answer.settings if answer else (),
        memory_failure=asked.failure,
        rows=tuple(rows),
        refused={each.type.name: each.refusal for each in surveyed if each.refusal},
        advice=advice.advise(subject, rows, options.quantize.imatrix),
        ready=subject.ready,
        speeds=speeds,
        warnings=subject.warnings,
    )


def _folders(subject: Subject) -> list[Path]:
    """Name the folders where measurements of this model may lie."""
    if subject.origin.is_remote:
        return []
    path = Path(subject.name)
    return [path if path.is_dir() else path.absolute().parent]


def _quality(name: str, measured: Mapping[tuple[str, bool], Quality], *, with_imatrix: bool) -> Quality | None:
    own = measured.get((name, with_imatrix)) or measured.get((name, not with_imatrix))
    return own or quality.prior(name, with_imatrix=with_imatrix)


def _unchanged(subject: Subject) -> tuple[PlannedTensor, ...]:
    return tuple(
        PlannedTensor(tensor.name, tensor.shape, tensor.type, tensor.type, tensor.size, tensor.size)
        for header in subject.headers
        for tensor in header.tensors
    )


def _fits_vram(takes: Memory | None, vram: int | None) -> Fit | None:
    """Tell whether all of it fits in a GPU, which holds no mapped file and no second copy of weights."""
    if takes is None or vram is None:
        return None
    return Fit.YES if takes.file + takes.cache + takes.state + takes.compute <= vram else Fit.NO


def _disk(subject: Subject, unquantized: int, output: int, *, needs_imatrix: bool) -> int:
    """Sum up the bytes that must be free on the way: what is downloaded, what lies in between, and the result.

    A checkpoint is quantized in one pass; only an importance matrix is made with the whole model, as an F16 file.
    """
    between = unquantized if needs_imatrix and subject.origin.is_checkpoint else 0
    return subject.download_bytes + between + output
