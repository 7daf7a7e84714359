"""Looking at what was written before it gets its name: llama-quantize's status 0 is no proof."""

from collections.abc import Collection, Sequence
from pathlib import Path

from ggufkit.counting import counted
from ggufkit.errors import GgufFileError, OutputError, VerificationError
from ggufkit.gguf_file.reader import GgufHeader, TensorInfo, read_header
from ggufkit.llamacpp import load_check
from ggufkit.quantization.blocks import check_blocks
from ggufkit.quantization.plan import QuantizationPlan
from ggufkit.quantization.planned import stripped
from ggufkit.quantization.types import COPY


def check_output_files(
    plan: QuantizationPlan,
    written: Sequence[Path],
    output: Path,
    *,
    threads: int,
    sound: Collection[TensorInfo] = frozenset(),
) -> None:
    """Compare the files with the plan: headers, tensors and their types, extents, and finite scales in every block.

    `output` is the name that they are to have; the blocks of `sound` tensors have been looked at already.

    Raises:
        VerificationError: saying what is not as planned.
        OutputError: they are shorter than planned, or lack the beginning; llama-quantize passes over some errors of
            the disk.
    """
    short = sum(path.stat().st_size for path in written if path.exists()) < plan.bytes_after
    headers = [_read(path, output, short=short) for path in written]
    for part, header in enumerate(headers):
        _check_tensors(plan, part, header, output)
        _check_extent(header, output)
    _check_metadata(plan, headers[0], output)
    for header in headers:
        unseen = [tensor for tensor in header.tensors if tensor not in sound]
        check_blocks(header.path, unseen, threads=threads, called=output)
    _check_loads(plan, written[0], output)


def _read(path: Path, output: Path, *, short: bool) -> GgufHeader:
    try:
        return read_header(path)
    except GgufFileError as error:
        told = f"llama-quantize ended well, but {output} would not be whole: {error}"
        if short or _lacks_beginning(path):
            raise OutputError(told, hint="is the disk full, or does it fail?") from error
        raise VerificationError(told) from error


def _lacks_beginning(path: Path) -> bool:
    """Tell whether the header, which llama-quantize writes last, was never put over the zeros that hold its place."""
    with path.open("rb") as file:
        return not any(file.read(4))


def _check_tensors(plan: QuantizationPlan, part: int, header: GgufHeader, output: Path) -> None:
    planned = {t.name: (stripped(t.shape), t.to) for t in plan.tensors if t.part == part}
    found = {tensor.name: (stripped(tensor.shape), tensor.type) for tensor in header.tensors}
    if different := sorted(name for name in planned.keys() | found.keys() if planned.get(name) != found.get(name)):
        raise VerificationError(
            f"llama-quantize ended well, but {counted(len(different), 'tensor')} of {output} would not be"
            f" what it had announced, as {different[0]!r}"
        )


def _check_extent(header: GgufHeader, output: Path) -> None:
    end = max((tensor.offset + tensor.size for tensor in header.tensors), default=header.data_offset)
    if header.file_size - end not in range(header.alignment):
        raise VerificationError(
            f"llama-quantize ended well, but {output} would be {header.file_size:,} bytes long,"
            f" {header.file_size - end:,} behind the last tensor"
        )


def _check_metadata(plan: QuantizationPlan, header: GgufHeader, output: Path) -> None:
    """The type in the file is the one that was asked for, and no key of the source is lost."""
    before = read_header(plan.source).metadata
    lost = [key for key in before if key not in header.metadata and not key.startswith("split.")]
    said = header.metadata.get("general.file_type")
    if lost:
        raise VerificationError(f"llama-quantize ended well, but {output} would lack the key {lost[0]!r}")
    if plan.type is not COPY and said != plan.type.number:
        raise VerificationError(
            f"llama-quantize ended well, but {output} would say that its general.file_type is {said},"
            f" expected {plan.type.number} ({plan.type.name})"
        )


def _check_loads(plan: QuantizationPlan, written: Path, output: Path) -> None:
    """See that llama.cpp still loads it, where more than types was changed; the source was seen before."""
    changed = {"--override-kv": plan.options.overrides, "--prune-layers": plan.options.prune_layers}
    flags = [flag for flag, given in changed.items() if given]
    if flags and (reason := load_check.why_not(written)):
        raise VerificationError(
            f"llama.cpp could not load {output}: {reason}", hint=f"{' and '.join(flags)} would have made it so"
        )
