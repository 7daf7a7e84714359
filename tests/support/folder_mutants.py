"""Model folders with one or a few faults in their JSON files or their tokenizer.model, made from good ones."""

import copy
import json
import random
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import recipes
import tiny_tokenizers

from ggufkit.architectures import spec_for
from ggufkit.checkpoints import Config

# One of each kind of tokenizer, and of the larger families of architectures.
BASES = (
    "llama",
    "gemma2",
    "bert",
    "t5",
    "qwen3moe",
    "deepseek-v2-lite",
    "gpt2",
    "phi3",
    "mamba",
    "gpt-oss",
    "qwen35",
    "xlm-roberta",
)
_BOM = b"\xef\xbb\xbf"
_NAMES = (
    "eos_token_id",
    "bos_token_id",
    "rope_scaling",
    "head_dim",
    "torch_dtype",
    "auto_map",
    "text_config",
    "vocab_size",
)

GENERATION = {"eos_token_id": [1, 2], "bos_token_id": 0, "temperature": 0.6, "top_p": 0.95, "top_k": 20}
TEMPLATE = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"


def bases(folder: Path) -> list[Path]:
    """Write the good folders that mutants are made from."""
    made = []
    for name in BASES:
        path = recipes.checkpoint(name, folder / name)
        config = Config(json.loads((path / "config.json").read_text()))
        spec = spec_for(config.architecture, config.model_type)
        tiny_tokenizers.write_tokenizer(spec.vocabulary.value, config.architecture, path)
        settings = path / "tokenizer_config.json"
        told = json.loads(settings.read_text()) if settings.exists() else {}
        settings.write_text(json.dumps({"chat_template": TEMPLATE, **told}))
        (path / "generation_config.json").write_text(json.dumps(GENERATION))
        (path / "special_tokens_map.json").write_text(json.dumps({"eos_token": {"content": "</s>"}}))
        made.append(path)
    return made


def mutant(good: list[Path], folder: Path, chance: random.Random) -> str:
    """Write one folder that is probably wrong to `folder`, which is emptied, and say what was done to it."""
    shutil.rmtree(folder, ignore_errors=True)
    base = chance.choice(good)
    shutil.copytree(base, folder)
    done = [base.name]
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        files = sorted(
            path for path in folder.iterdir() if path.suffix in (".json", ".model", ".txt") and path.stat().st_size
        )
        path = chance.choice([*files, *(file for file in files if file.name == "config.json")])
        done.append(f"{path.name}: {change(path, chance)}")
    return "; ".join(done)


def change(path: Path, chance: random.Random) -> str:
    """Change a file in one way, of its JSON where it holds some, and say how."""
    if path.suffix != ".json" or chance.random() < 0.12:
        return _change_bytes(path, chance)
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return _change_bytes(path, chance)
    places = _places(content)
    if not places:
        return _change_bytes(path, chance)
    # the few entries of the outer levels matter most, where a vocabulary has hundreds
    place = min((chance.choice(places) for _ in range(chance.choice((1, 2, 4)))), key=len)
    holder = content
    for key in place[:-1]:
        holder = holder[key]
    key = place[-1]
    match chance.randrange(8):
        case 0:
            said = "removed"
            del holder[key]
        case 1 if isinstance(holder, dict):
            said = "renamed"
            holder[chance.choice((*_NAMES, f"{key}_", ""))] = holder.pop(key)
        case 2 if isinstance(holder, list):
            said = "repeated"
            holder.insert(key, copy.deepcopy(holder[key]))
        case _:
            holder[key] = _other(holder[key], chance)
            said = f"= {holder[key]!r:.80}"
    path.write_text(json.dumps(content), encoding="ascii")
    if chance.random() < 0.03:
        path.write_bytes(_BOM + path.read_bytes())
    return f"{'.'.join(map(str, place))[:80]} {said}"


def _other(value: Any, chance: random.Random) -> Any:
    if isinstance(value, int | float) and not isinstance(value, bool) and chance.random() < 0.5:
        near = (value + 1, value - 1, -value, value * 2, value // 2, value * 1000, value + 0.5)
        return chance.choice((*near, 0, 1, 2**31 - 1, 2**31, 2**32, 2**63, 10**30, 1e308, float("nan"), float("inf")))
    if isinstance(value, str) and chance.random() < 0.6:
        return chance.choice(
            (value[::-1], value * 2, "", " ", "\0", "\ud800", value + "\n", "a" * 100_000, "../" + value)
        )
    if isinstance(value, list) and value and chance.random() < 0.5:
        return chance.choice((value[::-1], value * 2, value[1:], [value], [*value, None], value[:1] * 50))
    if isinstance(value, dict) and value and chance.random() < 0.3:
        return chance.choice(({**value, "": None}, [value], dict(list(value.items())[1:]), list(value)))
    deep: Any = 1
    for _ in range(chance.choice((2, 60))):
        deep = [deep]
    simple = (
        None,
        True,
        False,
        0,
        1,
        -1,
        2.5,
        10**12,
        "",
        "text",
        [],
        [None],
        {},
        {"a": 1},
        [1, 2],
        ["x", "y"],
        "\ud800",
    )
    return chance.choice((*simple, deep, {"type": "Sequence", "normalizers": None}, {"content": 7}))


def _change_bytes(path: Path, chance: random.Random) -> str:
    content = path.read_bytes()
    place = chance.randrange(len(content) or 1)
    match chance.randrange(10):
        case 0:
            content = content[:place]
        case 1:
            content = b""
        case 2:
            content = _BOM + content
        case 3:
            content = b'{"a":' * chance.choice((100, 10_000)) + b"1" + b"}" * chance.choice((0, 100, 10_000))
        case 4:
            content = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
        case 5:
            content = content + content
        case 6:
            content = chance.choice(
                (b"[]", b"null", b"NaN", b"{}", b'"x"', b"\xff\xfe", content.decode("latin-1").encode("utf-16"))
            )
        case _:
            for _ in range(chance.randrange(1, 8)):
                place = chance.randrange(len(content) or 1)
                content = content[:place] + chance.randbytes(1) + content[place + chance.randrange(2) :]
    path.write_bytes(content)
    return f"bytes changed at {place}"


def _places(content: Any) -> list[tuple[Any, ...]]:
    found: list[tuple[Any, ...]] = []
    pending: list[tuple[tuple[Any, ...], Any]] = [((), content)]
    while pending and len(found) < 5000:
        path, value = pending.pop(0)
        items = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
        for key, member in items:
            found.append((*path, key))
            pending.append(((*path, key), member))
    return found
