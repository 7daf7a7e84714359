"""A repository on the hub as local files with holes: headers are where they belong, and weights read as zeros.

So nothing that plans from local files has to know that a model is elsewhere. The holes take no disk space.
"""

import json
import re
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from ggufkit.checkpoints import hub
from ggufkit.checkpoints.config import read_json_object
from ggufkit.checkpoints.hub import Listing, RemoteFile, Repository
from ggufkit.checkpoints.hub_selection import RemoteGguf, choose_gguf, gguf_models
from ggufkit.checkpoints.safetensors import INDEX
from ggufkit.errors import CheckpointError, GgufFileError, HubError
from ggufkit.gguf_file.reader import read_header

_AT_ONCE = 8
_FIRST_BYTES = 1 << 16  # most headers of a shard are smaller
_LARGEST_HEADER = 100_000_000
_LARGEST_SMALL_FILE = 100_000_000
_LARGEST_STATE = 4096
_DESCRIPTIONS = (".json", ".model", ".jinja", ".txt", ".tiktoken", "README.md")
_USELESS = re.compile(r"(pytorch_model|tf_model|flax_model|consolidated|training_|trainer_|optimizer)")
_GGUF_FIRST_BYTES = 1 << 20
_GGUF_MOST_BYTES = 1 << 28
_UNQUANTIZED = re.compile(r"[-._/](bf16|f16|fp16|f32|fp32)(?=[-._/])", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Hollow:
    """Files with holes in place of a repository's weights.

    `checkpoint` is a folder, `gguf` the (first) file of a model; at least one is there. `ready` are all GGUF models
    that the repository holds.
    """

    checkpoint: Path | None
    gguf: Path | None
    download_bytes: int
    ready: tuple[RemoteGguf, ...]


def fetch(repository: Repository, folder: Path, *, quantization: str | None = None) -> Hollow:
    """Fetch the small files and the headers of the large ones into `folder`.

    With `quantization` it is that GGUF model. Without, a checkpoint is preferred; else the unquantized GGUF model, else
    the smallest one.

    Raises:
        HubError: the repository cannot be read, or holds no weights.
    """
    if hub.is_offline():
        if cached := hub.cached_snapshot(repository):
            return Hollow(cached, None, 0, ())
        raise HubError(
            f"{repository} is not in the cache, and HF_HUB_OFFLINE forbids to fetch it", hint="unset HF_HUB_OFFLINE"
        )
    listing = hub.list_files(repository)
    ready = gguf_models(listing)
    place = folder / repository.name  # a model without another name is called after its folder
    place.mkdir(parents=True)
    if not quantization and listing.file("config.json") and listing.in_root(".safetensors"):
        small = _fetch_descriptions(listing, place)
        large = _fetch_weights(listing, place)
        return Hollow(place, None, sum(file.size for file in (*small, *large)), ready)
    if ready or quantization:
        unquantized = [model for model in ready if _UNQUANTIZED.search(model.path)]
        chosen = (
            choose_gguf(listing, quantization)
            if quantization
            else min(unquantized or ready, key=lambda model: model.size)
        )
        for file in chosen.files:
            _fetch_gguf_header(listing, file, place / Path(file.path).name)
        return Hollow(None, place / Path(chosen.path).name, chosen.size, ready)
    bins = listing.in_root(".bin")
    raise HubError(
        f"{repository} holds {'its weights as .bin only' if bins else 'neither safetensors nor GGUF files'}",
        hint="download it and plan from the folder" if bins else "name a repository that holds a model",
    )


def _fetch_descriptions(listing: Listing, place: Path) -> Sequence[RemoteFile]:
    """Copy the config, the tokenizer and the model card into the folder: links would lead out of it."""
    wanted = [
        file
        for file in listing.in_root(*_DESCRIPTIONS)
        if file.size <= _LARGEST_SMALL_FILE and (file.path == INDEX or not _USELESS.match(file.path))
    ]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for file, path in zip(wanted, pool.map(lambda file: hub.download(listing, file), wanted), strict=True):
            shutil.copyfile(path, place / file.path)
    return wanted


def _fetch_weights(listing: Listing, place: Path) -> Sequence[RemoteFile]:
    """Write every shard as its header and a hole."""
    files = listing.in_root(".safetensors")
    if listing.file(INDEX):
        names = read_json_object(place / INDEX, limit=_LARGEST_SMALL_FILE).get("weight_map")
        named = set(names.values()) if isinstance(names, dict) else set()
        files = tuple(file for file in files if file.path in named)
    elif whole := listing.file("model.safetensors"):
        files = (whole,)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        list(pool.map(lambda file: _fetch_safetensors_header(listing, file, place / file.path), files))
    return files


def _fetch_safetensors_header(listing: Listing, file: RemoteFile, path: Path) -> None:
    content = hub.read_range(listing, file, 0, _FIRST_BYTES)
    length = 8 + int.from_bytes(content[:8], "little")
    if len(content) < 8 or length > min(file.size, _LARGEST_HEADER):
        raise CheckpointError(f"{listing.repository}: {file.path} is no safetensors file")
    if len(content) < length:
        content += hub.read_range(listing, file, len(content), length - len(content))
    _write_hollow(path, content[:length], file.size)
    _fetch_shapes(listing, file, path, content[8:length])


def _fetch_shapes(listing: Listing, file: RemoteFile, path: Path, header: bytes) -> None:
    """Fill in the small tensors that hold the shapes of weights where no header has them (bitsandbytes, 4 bits)."""
    if b".quant_state." not in header:
        return
    try:
        ranges = [
            entry["data_offsets"]
            for name, entry in json.loads(header).items()
            if ".quant_state." in name and 0 <= entry["data_offsets"][1] - entry["data_offsets"][0] <= _LARGEST_STATE
        ]
    except (ValueError, RecursionError, TypeError, KeyError, IndexError, AttributeError):
        return  # whoever reads the header says what is wrong with it
    start = 8 + len(header)
    with ThreadPoolExecutor(_AT_ONCE) as pool, path.open("r+b") as target:
        contents = pool.map(lambda ends: hub.read_range(listing, file, start + ends[0], ends[1] - ends[0]), ranges)
        for (begin, _), content in zip(ranges, contents, strict=True):
            target.seek(start + begin)
            target.write(content)


def _fetch_gguf_header(listing: Listing, file: RemoteFile, path: Path) -> None:
    """Fetch more and more of a file until its header is whole; its length stands nowhere."""
    content = b""
    wanted = _GGUF_FIRST_BYTES
    while True:
        content += hub.read_range(listing, file, len(content), wanted - len(content))
        _write_hollow(path, content, file.size)
        try:
            header = read_header(path)
        except GgufFileError:
            if len(content) >= min(file.size, _GGUF_MOST_BYTES):
                raise
        else:
            if header.data_offset <= len(content):  # else some of it was read from the hole
                return
        wanted *= 4


def _write_hollow(path: Path, content: bytes, size: int) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.truncate(size)
