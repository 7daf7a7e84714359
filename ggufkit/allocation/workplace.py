"""Where an optimization works: the folder that keeps what was measured, and with what measurements are made."""

import contextlib
import hashlib
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from ggufkit.allocation.chunks import chunks_of
from ggufkit.allocation.estimate import Speeds, encoding_speed
from ggufkit.allocation.ledger import Ledger, Measured
from ggufkit.allocation.measuring import Measurer, Setting
from ggufkit.allocation.model import Model
from ggufkit.allocation.options import OptimizeOptions
from ggufkit.allocation.texts import Dealt, Use
from ggufkit.errors import OutputError
from ggufkit.files import locked
from ggufkit.gguf_file.reader import GgufHeader
from ggufkit.llamacpp.find import cache_folder, find
from ggufkit.progress import Progress
from ggufkit.quantization.direct import library as ggml_library
from ggufkit.quantization.recipe import hash_file

LEDGER = "measurements.jsonl"
_SCRATCH = ("probing", "choosing", "refining", "equalized")


def state_folder(headers: Sequence[GgufHeader], options: OptimizeOptions) -> Path:
    """Where the state of a model is kept, whether it is there or not."""
    digest = hashlib.sha256()
    for header in headers:
        digest.update(f"{header.path.absolute()} {header.file_size}\n".encode())
    return options.folder or cache_folder() / "allocations" / digest.hexdigest()[:16]


def check_state(options: OptimizeOptions) -> None:
    """Refuse, before any work, a folder for the state that cannot be one. Raises OutputError."""
    folder = options.folder
    if folder is None:
        return
    try:
        if folder.exists() and not folder.is_dir():
            raise OutputError(f"the state needs a folder, and {folder} is a file", hint="--state FOLDER")
        existing = next(each for each in (folder.absolute(), *folder.absolute().parents) if each.exists())
    except OSError as error:
        raise OutputError(f"cannot keep the state in {folder}: {error.strerror}") from error
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise OutputError(f"cannot keep the state in {folder}: no permission to write in {existing}")


@contextlib.contextmanager
def workplace(model: Model, options: OptimizeOptions) -> Iterator[Path]:
    """The folder of the state, which later runs find again; large files do not stay in it."""
    folder = state_folder(model.headers, options)
    with contextlib.ExitStack() as stack:
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(folder, hint="wait for it, or keep the state of this run elsewhere: --state"))
            folder.mkdir(exist_ok=True)
        except OSError as error:
            raise OutputError(f"cannot keep the state in {folder}: {error.strerror}") from error
        if options.restart:
            (folder / LEDGER).unlink(missing_ok=True)
        for name in _SCRATCH:  # of a run that was killed
            shutil.rmtree(folder / name, ignore_errors=True)
        try:
            yield folder
        finally:
            for name in _SCRATCH:
                shutil.rmtree(folder / name, ignore_errors=True)


def setting_of(model: Model, options: OptimizeOptions, identity: str, texts: Dealt, use: Use, most: int) -> Setting:
    """Cut the text of one use, and say what will be run on it. Raises as `chunks_of`."""
    chunks = chunks_of(texts, use, model.headers[0], options.running, length=options.chunk_tokens, most=most)
    quantize_options = options.quantize
    return Setting(
        sources=tuple(header.path for header in model.headers),
        chunks=chunks,
        importance=quantize_options.imatrix,
        include_weights=quantize_options.include_weights,
        exclude_weights=quantize_options.exclude_weights,
        running=options.running,
        identity=f"{identity} {chunks.identity}",
    )


def identity_of(model: Model, options: OptimizeOptions) -> str:
    """Name the model, the matrix and llama.cpp, by their bytes."""
    quantize_options = options.quantize
    matrix = hash_file([quantize_options.imatrix]) if quantize_options.imatrix else ""
    build = find().library("llama").resolve()
    says = [
        hash_file(header.path for header in model.headers),
        matrix,
        repr((quantize_options.include_weights, quantize_options.exclude_weights)),
        f"{build.name} {build.stat().st_size}",
        repr((options.running.cache_type_k, options.running.cache_type_v, options.running.flash_attention)),
        repr(options.running.gpu_layers),
    ]
    return hashlib.sha256(" ".join(says).encode()).hexdigest()


def speed_key(setting: Setting) -> str:
    """Name what is remembered of how fast a setting is read."""
    return f"speed {setting.identity} {setting.running_of_one.threads}"


def speeds_of(measurer: Measurer, ledger: Ledger, setting: Setting, progress: Progress) -> Speeds:
    """Learn how fast this machine is by a part of the work, unless an earlier run has: the base reads its text."""
    known = ledger.get(speed_key(setting))
    if known is None:
        reading = measurer.prepare(progress)
        known = Measured(0.0, (reading.tokens_per_second or 1.0,), reading.load_seconds or 0.0)
        ledger.add(speed_key(setting), known)
    return Speeds(encoding_speed(ggml_library()), known.chunks[0], known.seconds)
