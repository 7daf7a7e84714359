"""Convert a checkpoint: by a spec of ours where there is one, else by llama.cpp's own converter in a child process."""

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from ggufkit.architectures import nearest, spec_for
from ggufkit.checkpoints import Config, SourceQuantization, open_checkpoint, read_config
from ggufkit.conversion.execute import execute
from ggufkit.conversion.kept import Keep
from ggufkit.conversion.metadata_edits import MetadataEdits
from ggufkit.conversion.plan import ConversionPlan, OutputType, make_plan, own_type
from ggufkit.conversion.vocabulary import TokenizerOptions
from ggufkit.errors import (
    CheckpointError,
    GgufFileError,
    MissingDependencyError,
    UnsupportedArchitectureError,
    UsageError,
)
from ggufkit.files import PlannedFile, atomic_output, check_output, check_space
from ggufkit.findings import Severity
from ggufkit.fitness import check_headers
from ggufkit.gguf_file.reader import read_header
from ggufkit.llamacpp import converter as llamacpp_converter
from ggufkit.llamacpp.cpu import usable_cores
from ggufkit.progress import Progress, silent


class Converter(StrEnum):
    """Who converts."""

    AUTO = "auto"  # native where a spec fits, else llama.cpp's
    NATIVE = "native"
    LLAMA_CPP = "llama.cpp"


@dataclass(frozen=True, slots=True)
class ConversionResult:
    """What a conversion did; sizes in bytes.

    `quantization` is what others had done to the weights, `kept` counts those that keep their integers, by type.
    """

    source: Path
    output: Path
    converter: Converter
    architecture: str
    output_type: OutputType
    tensors: int
    tensor_types: Mapping[str, int]
    size_before: int
    size_after: int
    seconds: float
    warnings: tuple[str, ...] = field(default=())
    quantization: SourceQuantization | None = None
    kept: Mapping[str, int] = field(default_factory=dict)

    @property
    def bytes_per_second(self) -> float:
        """How fast the output was written."""
        return self.size_after / self.seconds if self.seconds else 0.0


def convert(
    source: Path,
    output: Path,
    *,
    outtype: OutputType = OutputType.F16,
    converter: Converter = Converter.AUTO,
    mtp: bool = True,
    tokenizer: TokenizerOptions | None = None,
    edits: MetadataEdits | None = None,
    keep: Keep | None = None,
    trust_remote_code: bool = False,
    threads: int | None = None,
    progress: Progress = silent,
) -> ConversionResult:
    """Convert the checkpoint folder `source` to the GGUF file `output`, which is whole or absent afterwards.

    Without `mtp`, blocks of multi-token prediction are left out even where llama.cpp loads them.
    `tokenizer` tells where to read the tokenizer, if not in the folder, and how it cuts text, if that is known.
    `edits` are metadata that take the place of what the folder says.
    `keep` tells which weights that others quantized stay in their blocks; without it, `outtype` does.
    `trust_remote_code` lets llama.cpp's converter run Python that the model folder brings; ours never does.

    Raises:
        CheckpointError: the checkpoint is missing, incomplete, malformed, or nothing here converts it.
        UnsafeError: the fallback would run code from the model folder.
        OutputError, UsageError: the output cannot or must not be written.
        MissingDependencyError: the fallback needs torch and transformers, or llama.cpp's source.
        LlamaCppError: llama.cpp's converter failed.
    """
    config = read_config(source)
    check_output(output, inputs=[source, *source.iterdir()])
    started = time.monotonic()
    if who_converts(config, converter) is Converter.LLAMA_CPP:
        if tokenizer is not None:
            raise UsageError("--pre and --tokenizer-from are for native conversions; llama.cpp's converter has neither")
        if edits is not None:
            raise UsageError(
                "--metadata and --set are for native conversions, and no spec of ours fits this checkpoint"
            )
        if outtype is OutputType.SOURCE:
            raise UsageError("--outtype source is for native conversions; llama.cpp's converter has no such type")
        return _by_llama_cpp(source, output, outtype, config, mtp, trust_remote_code, progress, started)
    keep = outtype.keeps if keep is None else keep
    with open_plan(source, outtype, mtp=mtp, tokenizer=tokenizer, edits=edits, keep=keep) as plan:
        check_space([PlannedFile(output, plan.layout.size)])
        with atomic_output(output, size=plan.layout.size) as temporary:
            _refuse_unfit(plan, temporary)
            execute(plan, temporary, threads=threads or usable_cores(), progress=progress)
        return ConversionResult(
            source=source,
            output=output,
            converter=Converter.NATIVE,
            architecture=plan.spec.name,
            output_type=plan.output_type,
            tensors=len(plan.layout.tensors),
            tensor_types=dict(Counter(tensor.type.name for tensor in plan.layout.tensors)),
            size_before=plan.checkpoint.size,
            size_after=plan.layout.size,
            seconds=time.monotonic() - started,
            warnings=plan.warnings,
            quantization=plan.checkpoint.quantization,
            kept=plan.kept,
        )


def _refuse_unfit(plan: ConversionPlan, path: Path) -> None:
    """Write a file of that header, with a hole for the weights, and see whether llama.cpp would die of it.

    Raises:
        CheckpointError: naming the key that would be wrong.
    """
    with path.open("r+b") as file:
        file.write(plan.layout.header)
        file.truncate(plan.layout.size)
    for finding in check_headers([read_header(path)]):
        if finding.severity >= Severity.UNFIT:
            raise CheckpointError(
                f"{plan.checkpoint.folder}: llama.cpp could not run what it would become: "
                f"{finding.where} {finding.what}",
                hint=finding.hint,
            )


@contextmanager
def open_plan(
    source: Path,
    outtype: OutputType,
    *,
    mtp: bool = True,
    tokenizer: TokenizerOptions | None = None,
    edits: MetadataEdits | None = None,
    keep: Keep = Keep.NONE,
) -> Iterator[ConversionPlan]:
    """Plan a native conversion without doing it: what `--dry-run` shows. Raises as `convert` does."""
    with open_checkpoint(source) as checkpoint:
        spec = spec_for(checkpoint.config.architecture, checkpoint.config.model_type)
        yield make_plan(checkpoint, spec, outtype, mtp=mtp, tokenizer=tokenizer, edits=edits, keep=keep)


def type_of(source: Path) -> OutputType:
    """Tell what OutputType.AUTO means for a checkpoint folder. Raises as `open_checkpoint`."""
    with open_checkpoint(source) as checkpoint:
        return own_type(checkpoint)


def who_converts(config: Config, wanted: Converter) -> Converter:
    """Choose the converter for a checkpoint; AUTO falls back on llama.cpp's where no spec of ours fits.

    Raises:
        UnsupportedArchitectureError: neither we nor llama.cpp know the architecture.
    """
    if wanted is Converter.LLAMA_CPP:
        return wanted
    try:
        spec_for(config.architecture, config.model_type)
    except UnsupportedArchitectureError:
        if wanted is Converter.NATIVE:
            raise
        try:
            known = llamacpp_converter.known_architectures()
        except MissingDependencyError as error:
            raise UnsupportedArchitectureError(
                f"no spec for architecture {config.architecture!r} (nearest known: "
                f"{', '.join(nearest(config.architecture))}), and llama.cpp's converter is not there to fall back on",
                hint=f"{error.hint}, then the same command again",
            ) from None
        if config.architecture in known:
            return Converter.LLAMA_CPP
        raise UnsupportedArchitectureError(
            f"unknown architecture {config.architecture!r}; nearest known: "
            f"{', '.join(nearest(config.architecture, also=known))}",
            hint="if it is one of these under another name, ggufkit convert --converter llama.cpp may convert it",
        ) from None
    return Converter.NATIVE


def _by_llama_cpp(
    source: Path,
    output: Path,
    outtype: OutputType,
    config: Config,
    mtp: bool,
    trust_remote_code: bool,
    progress: Progress,
    started: float,
) -> ConversionResult:
    before = sum(path.stat().st_size for pattern in ("*.safetensors", "*.bin") for path in source.glob(pattern))
    check_space([PlannedFile(output, before)])
    with atomic_output(output) as temporary:
        llamacpp_converter.convert(
            source, temporary, outtype=outtype.value, mtp=mtp, trust_remote_code=trust_remote_code, progress=progress
        )
        header = read_header(temporary)
        if not header.tensors:
            raise GgufFileError(f"llama.cpp's converter wrote no tensors for {source}")
        types = Counter(tensor.type.name for tensor in header.tensors)
    return ConversionResult(
        source=source,
        output=output,
        converter=Converter.LLAMA_CPP,
        architecture=str(header.metadata.get("general.architecture", config.architecture)),
        output_type=outtype,
        tensors=len(header.tensors),
        tensor_types=dict(types),
        size_before=before,
        size_after=output.stat().st_size,
        seconds=time.monotonic() - started,
    )
