"""Which files of a repository are wanted: those of a checkpoint, or those of one quantization of a GGUF repository."""

import fnmatch
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from ggufkit.checkpoints.hub import Listing, RemoteFile
from ggufkit.errors import HubError, UsageError

DEFAULT_QUANTIZATION = "Q4_K_M"  # as `llama-cli -hf` and Ollama take it

_SHARD = re.compile(r"-(\d{5})-of-(\d{5})(?=\.[a-z]+$)")
_NOT_A_MODEL = re.compile(r"(^|[-._/])(mmproj|imatrix)", re.IGNORECASE)
_LABEL = re.compile(
    r"(?:^|[-._/])((?:UD[-_])?(?:I?Q\d[0-9A-Z_]*|TQ\d_\d|MXFP\d[0-9A-Z_]*|NVFP\d|BF16|F16|FP16|F32|FP32))(?=$|[-./])",
    re.IGNORECASE,
)
_PROJECTORS = ("F16", "BF16", "Q8_0", "F32")  # in the order in which one is taken
_DESCRIPTIONS = (".json", ".model", ".jinja", ".txt", ".tiktoken", ".md", ".vocab", ".spm")
_NAMED_DESCRIPTIONS = re.compile(r"(licen[cs]e|notice|use_policy)", re.IGNORECASE)
_TRAINING = re.compile(r"(training_|trainer_|optimizer|scheduler|rng_state|all_results|train_results|eval_results)")
# Weights come once: an index tells its shards; where formats are beside each other, the first of these is taken.
_WEIGHTS = (
    re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors"),
    re.compile(r"(?!consolidated|adapter).*\.safetensors"),
    re.compile(r"consolidated.*\.safetensors"),
    re.compile(r"adapter_model\.safetensors"),
    re.compile(r"pytorch_model(-\d{5}-of-\d{5})?\.bin"),
    re.compile(r"adapter_model\.bin"),
)
_CONFIGS = ("config.json", "adapter_config.json", "params.json")
_MODULE = re.compile(r"\d+_[A-Za-z]+/(config\.json|model\.safetensors)")  # of sentence-transformers


@dataclass(frozen=True, slots=True)
class RemoteGguf:
    """A GGUF model of a repository: the path of its (first) file, all its files, and their bytes."""

    path: str
    files: tuple[RemoteFile, ...]

    @property
    def size(self) -> int:
        """The bytes of all parts."""
        return sum(file.size for file in self.files)

    @property
    def is_complete(self) -> bool:
        """Whether the repository holds all parts."""
        shard = _SHARD.search(self.path)
        return shard is None or int(shard[2]) == len(self.files)

    @property
    def label(self) -> str:
        """The quantization in its name, such as Q4_K_M or UD-Q4_K_XL; where none is found, the name."""
        stem = _SHARD.sub("", self.path).removesuffix(".gguf")
        found = _LABEL.findall(stem)
        return found[-1].upper() if found else stem.rpartition("/")[2]


def gguf_models(listing: Listing) -> tuple[RemoteGguf, ...]:
    """List the GGUF models of a repository, the smallest first; projectors and importance matrices are none."""
    return _grouped(listing, lambda path: not _NOT_A_MODEL.search(path))


def projectors(listing: Listing) -> tuple[RemoteGguf, ...]:
    """List the multimodal projectors of a repository (`mmproj-…gguf`), the one to take first."""
    found = _grouped(listing, lambda path: "mmproj" in path.lower())
    order = {label: place for place, label in enumerate(_PROJECTORS)}
    return tuple(sorted(found, key=lambda model: order.get(model.label, len(order))))


def _grouped(listing: Listing, wanted: Callable[[str], bool]) -> tuple[RemoteGguf, ...]:
    models = []
    for file in listing.files:
        if not file.path.endswith(".gguf") or not wanted(file.path):
            continue
        shard = _SHARD.search(file.path)
        if shard is None:
            models.append(RemoteGguf(file.path, (file,)))
        elif shard[1] == "00001":
            names = [_SHARD.sub(f"-{n:05d}-of-{shard[2]}", file.path) for n in range(1, int(shard[2]) + 1)]
            models.append(RemoteGguf(file.path, tuple(part for name in names if (part := listing.file(name)))))
    return tuple(sorted(models, key=lambda model: (model.size, model.path)))


def choose_gguf(listing: Listing, quantization: str | None) -> RemoteGguf:
    """Choose one GGUF model: by its quantization in any case, by its path, or the usual one.

    Raises:
        HubError: there is none of that name, or several; the message lists what there is.
    """
    models = gguf_models(listing)
    if not models:
        raise HubError(f"{listing.repository} holds no GGUF file", hint="name a repository that holds one")
    chosen = matching(models, quantization)
    if len(chosen) == 1:
        if not chosen[0].is_complete:
            raise HubError(f"{listing.repository}: parts of {chosen[0].path} are missing in the repository")
        return chosen[0]
    if quantization is None:
        problem = f"{listing.repository} holds {len(models)} GGUF models; say which"
    elif chosen:
        problem = f"{listing.repository} holds {len(chosen)} models that {quantization!r} may mean"
    else:
        problem = f"{listing.repository} has no quantization {quantization!r}"
    listed = chosen or models
    by_label = len({model.label for model in listed}) == len(listed)
    names = [(model.label if by_label else model.path, model.size) for model in listed]
    raise HubError(
        f"{problem}: {', '.join(f'{name} ({_size(size)})' for name, size in names)}",
        hint=f"for example {listing.repository.id}:{names[0][0]}",
    )


def matching(models: Sequence[RemoteGguf], quantization: str | None) -> list[RemoteGguf]:
    """Find the models that a quantization, a path or nothing at all may mean."""
    if quantization is None:
        return [models[0]] if len(models) == 1 else matching(models, DEFAULT_QUANTIZATION)
    by_path = [model for model in models if quantization in {model.path, model.path.rpartition("/")[2]}]
    wanted = _plain(quantization)
    exact = [model for model in models if _plain(model.label) == wanted]
    inside = [model for model in models if re.search(rf"(^|[_/]){re.escape(wanted)}($|[_/])", _plain_path(model.path))]
    return by_path or exact or inside


def choose_checkpoint(listing: Listing, read_index: Callable[[RemoteFile], Iterable[str]]) -> tuple[RemoteFile, ...]:
    """Choose the files of a checkpoint: config, tokenizer, card, and its weights once.

    Safetensors are preferred to `.bin`, which only torch reads; Python code is left where it is. `read_index` fetches
    an index and names its shards.

    Raises:
        HubError: the repository holds no config or no weights, or lacks a shard that its index names.
    """
    if not any(listing.file(name) for name in _CONFIGS):
        raise HubError(
            f"{listing.repository} holds no checkpoint: there is no config.json",
            hint="name the repository of the original model",
        )
    small = [
        file
        for file in listing.files
        if ("/" not in file.path and _is_description(file.path)) or _MODULE.fullmatch(file.path)
    ]
    weights = _weights(listing, read_index)
    if not weights:
        raise HubError(
            f"{listing.repository} holds no weights that ggufkit reads: neither safetensors nor pytorch_model.bin"
        )
    indices = tuple(f"{name}.index.json" for name in ("model.safetensors", "pytorch_model.bin"))
    kind = ".safetensors" if weights[0].path.endswith(".safetensors") else ".bin"
    small = [file for file in small if file.path not in indices or kind in file.path]
    return tuple(dict.fromkeys((*small, *weights)))


def holds_checkpoint(listing: Listing) -> bool:
    """Whether there is a config, and weights that go with it; GGUF repositories often have the first alone."""
    roots = [file.path for file in listing.files if "/" not in file.path]
    has_weights = any(pattern.fullmatch(path) for path in roots for pattern in _WEIGHTS)
    return has_weights and any(listing.file(name) for name in _CONFIGS)


def _weights(listing: Listing, read_index: Callable[[RemoteFile], Iterable[str]]) -> tuple[RemoteFile, ...]:
    for pattern in _WEIGHTS:
        found = tuple(file for file in listing.files if "/" not in file.path and pattern.fullmatch(file.path))
        if not found:
            continue
        index = listing.file(_SHARD.sub("", found[0].path) + ".index.json")
        if index is None:
            whole = tuple(file for file in found if not _SHARD.search(file.path))
            return whole or _all_shards(listing, found)
        named = sorted(set(read_index(index)))
        missing = [name for name in named if not listing.file(name)]
        if missing:
            raise HubError(f"{listing.repository} lacks {missing[0]}, which {index.path} names")
        return tuple(file for name in named if (file := listing.file(name)))
    return ()


def _all_shards(listing: Listing, found: tuple[RemoteFile, ...]) -> tuple[RemoteFile, ...]:
    """Check that shards without an index are complete, by the numbers in their names."""
    for file in found:
        shard = _SHARD.search(file.path)
        if shard and int(shard[2]) != len([each for each in found if f"-of-{shard[2]}." in each.path]):
            raise HubError(f"{listing.repository} lacks some of {int(shard[2])} shards such as {file.path}")
    return found


def _is_description(name: str) -> bool:
    if name.endswith((".safetensors.index.json", ".bin.index.json")):
        return True
    return (name.endswith(_DESCRIPTIONS) or bool(_NAMED_DESCRIPTIONS.match(name))) and not _TRAINING.match(name)


def filtered(
    files: Iterable[RemoteFile], include: Sequence[str], exclude: Sequence[str], *, of: str
) -> tuple[RemoteFile, ...]:
    """Keep the files that match one of `include` (all, if there is none) and none of `exclude`; shell patterns.

    Raises:
        UsageError: nothing is left.
    """
    kept = tuple(
        file
        for file in files
        if (not include or any(fnmatch.fnmatch(file.path, pattern) for pattern in include))
        and not any(fnmatch.fnmatch(file.path, pattern) for pattern in exclude)
    )
    if not kept:
        raise UsageError(f"--include and --exclude leave no file of {of}", hint="quote patterns: --include '*Q4*'")
    return kept


def _plain(text: str) -> str:
    return text.upper().replace("-", "_").replace(".", "_").replace("FP", "F")


def _plain_path(path: str) -> str:
    return _plain(_SHARD.sub("", path).removesuffix(".gguf"))


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"
