"""The model that is planned for, as headers, whatever it is named by; with stand-ins for its file that take no space.

All that llama.cpp's programs need in order to plan is a header with a hole behind it: they never look at the weights.
"""

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from ggufkit.checkpoints import hub, read_config
from ggufkit.checkpoints.hub import Repository
from ggufkit.checkpoints.hub_selection import RemoteGguf
from ggufkit.errors import CheckpointError, HubError, UnsupportedArchitectureError, UsageError
from ggufkit.gguf_file.reader import GgufHeader
from ggufkit.gguf_file.rewrite import rewrite
from ggufkit.planning import remote
from ggufkit.quantization.plan import read_model

# Long arrays that llama-quantize copies without a look at them; reading them takes it most of its time.
_VOCABULARY = {f"tokenizer.ggml.{name}" for name in ("tokens", "scores", "token_type", "merges")}
_SPLIT = {"split.no", "split.count", "split.tensors.count"}
_ALIGNMENT = "general.alignment"


class Origin(StrEnum):
    """Where the weights are."""

    CHECKPOINT = "checkpoint"
    GGUF = "gguf"
    REMOTE_CHECKPOINT = "remote checkpoint"
    REMOTE_GGUF = "remote gguf"

    @property
    def is_checkpoint(self) -> bool:
        """Whether a conversion comes first."""
        return self in {Origin.CHECKPOINT, Origin.REMOTE_CHECKPOINT}

    @property
    def is_remote(self) -> bool:
        """Whether a download comes first."""
        return self in {Origin.REMOTE_CHECKPOINT, Origin.REMOTE_GGUF}


@dataclass(frozen=True, slots=True)
class Subject:
    """A model to plan for.

    `headers` are those of the GGUF file that would be quantized, one for each of its parts; for a checkpoint, of the
    F16 file that its conversion would write. `file` has that header, and holes for weights unless `origin` is GGUF;
    `bare` has the same tensors and no vocabulary. Both live only as long as the `with` block that made them.
    """

    name: str
    origin: Origin
    headers: tuple[GgufHeader, ...]
    file: Path
    bare: Path
    source_bytes: int  # of the weights as they lie there now
    download_bytes: int = 0
    warnings: tuple[str, ...] = ()
    ready: tuple[RemoteGguf, ...] = ()  # GGUF models that the repository holds already

    @property
    def architecture(self) -> str:
        """The architecture in llama.cpp's words."""
        return str(self.headers[0].metadata["general.architecture"])

    @property
    def is_quantized(self) -> bool:
        """Whether the weights have lost precision already."""
        return any(tensor.type.is_quantized for header in self.headers for tensor in header.tensors)


@contextlib.contextmanager
def opened(source: str) -> Iterator[Subject]:
    """Read the headers of a checkpoint folder, a GGUF file (for a split one, its first), or `owner/repo[@revision]`.

    Of a repository on the hub only the small files and the headers of the large ones are fetched.

    Raises:
        CheckpointError, GgufFileError: it is not there, incomplete or malformed.
        UnsupportedArchitectureError: no spec of ours converts it, so nothing can be planned before that is done.
        HubError: the repository cannot be read.
    """
    path = Path(source)
    with tempfile.TemporaryDirectory(prefix="ggufkit-plan-") as name:
        folder = Path(name)
        if path.is_dir():
            yield _of_checkpoint(source, path, folder, Origin.CHECKPOINT)
        elif path.exists() or not (repository := hub.repository(source)):
            yield _of_gguf(source, path, folder, Origin.GGUF)
        else:
            yield _of_repository(repository, folder)


def _of_checkpoint(name: str, checkpoint: Path, folder: Path, origin: Origin) -> Subject:
    from ggufkit.conversion import Converter, OutputType, open_plan, who_converts

    try:
        native = who_converts(read_config(checkpoint), Converter.AUTO) is Converter.NATIVE
    except UnsupportedArchitectureError as error:
        error.hint = None if origin.is_remote else error.hint
        raise
    if not native:
        raise UnsupportedArchitectureError(
            f"no spec of ours converts {name}, so its tensors are known only after llama.cpp's converter ran",
            hint=f"ggufkit convert {'FOLDER' if origin.is_remote else name} -o model.gguf, then plan model.gguf",
        )
    with open_plan(checkpoint, OutputType.F16) as conversion:
        skeleton = folder / "skeleton.gguf"
        with skeleton.open("wb") as file:
            file.write(conversion.layout.header)
            file.truncate(conversion.layout.size)
        source_bytes, warnings = conversion.checkpoint.size, conversion.warnings
        if found := conversion.checkpoint.quantization:
            warnings = (f"the weights are quantized already, so more will be lost: {found}", *warnings)
    headers = tuple(read_model(skeleton))
    return Subject(name, origin, headers, skeleton, _bare(headers, folder), source_bytes, warnings=warnings)


def _of_gguf(name: str, path: Path, folder: Path, origin: Origin) -> Subject:
    headers = tuple(read_model(path))
    size = sum(header.file_size for header in headers)
    return Subject(name, origin, headers, path, _bare(headers, folder), size)


def _of_repository(repository: Repository, folder: Path) -> Subject:
    try:
        hollow = remote.fetch(repository, folder)
    except HubError as error:
        raise HubError(f"{error} (nor is there such a file or folder here)", hint=error.hint) from None
    if hollow.checkpoint:
        try:
            subject = _of_checkpoint(str(repository), hollow.checkpoint, folder, Origin.REMOTE_CHECKPOINT)
        except CheckpointError as error:
            error.hint = error.hint or "only headers were fetched: download the model, and plan from its folder"
            raise
    else:
        subject = _of_gguf(str(repository), Path(str(hollow.gguf)), folder, Origin.REMOTE_GGUF)
    return replace(subject, download_bytes=hollow.download_bytes, ready=hollow.ready)


def _bare(headers: tuple[GgufHeader, ...], folder: Path) -> Path:
    """Write a header with all tensors and no vocabulary, and a hole behind it."""
    if not headers[0].tensors:
        raise UsageError(f"{headers[0].path} holds no tensors, so there is nothing to plan")
    file = rewrite(
        headers[0],
        without={*_VOCABULARY, *_SPLIT, _ALIGNMENT},
        tensors=[(tensor.name, tensor.shape, tensor.type) for header in headers for tensor in header.tensors],
    )
    bare = folder / "bare.gguf"
    with bare.open("wb") as target:
        target.write(file.header)
        target.truncate(file.size)
    return bare
