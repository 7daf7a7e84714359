"""The models on this machine: each place is found, and what is removed is what was shown."""

import hashlib
import json
import os
from pathlib import Path

import pytest

from ggufkit.errors import InputError
from ggufkit.exports.installed import Where, find, installed_models, remove

COMMIT, OLDER = "a" * 40, "b" * 40


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    from huggingface_hub import constants

    for name in ("OLLAMA_MODELS", "GGUFKIT_MODELS", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path


def cache(home: Path, repository: str, commit: str, files: dict[str, bytes], *, main: bool = True) -> Path:
    """Put files into the hub's cache as huggingface_hub lays them out."""
    folder = home / "hub" / f"models--{repository.replace('/', '--')}"
    for path, content in files.items():
        blob = folder / "blobs" / hashlib.sha256(content).hexdigest()
        blob.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(content)
        link = folder / "snapshots" / commit / path
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    if main:
        (folder / "refs").mkdir(exist_ok=True)
        (folder / "refs" / "main").write_text(commit)
    return folder


def named() -> dict[str, tuple[str, str, int]]:
    return {model.name: (model.where.value, model.kind, model.size) for model in installed_models()}


def everything(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_all_places(home: Path) -> None:
    cache(home, "someone/model", COMMIT, {"config.json": b'{"torch_dtype": "bfloat16"}', "model.safetensors": b"x" * 9})
    shards = {f"m-Q8_0-0000{n}-of-00002.gguf": b"%d" % n * 5 for n in (1, 2)}
    cache(home, "someone/model-GGUF", COMMIT, {"m-Q4_K_M.gguf": b"four", "mmproj-F16.gguf": b"eye", **shards})
    cache(home, "someone/only-a-tokenizer", COMMIT, {"tokenizer.json": b"{}"})
    studio = home / ".lmstudio" / "models" / "someone" / "model-GGUF"
    studio.mkdir(parents=True)
    (studio / "m-Q6_K.gguf").write_bytes(b"six")
    own = home / ".local" / "share" / "ggufkit" / "models"
    own.mkdir(parents=True)
    (own / "mine.gguf").write_bytes(b"mine")
    blobs = home / ".ollama" / "models" / "blobs"
    blobs.mkdir(parents=True)
    config, model = b'{"file_type": "Q4_0"}', b"GGUF..."
    digests = [f"sha256:{hashlib.sha256(content).hexdigest()}" for content in (config, model)]
    for digest, content in zip(digests, (config, model), strict=True):
        (blobs / digest.replace(":", "-")).write_bytes(content)
    manifest = home / ".ollama/models/manifests/registry.ollama.ai/library/tiny/latest"
    manifest.parent.mkdir(parents=True)
    layers = [{"mediaType": "application/vnd.ollama.image.model", "digest": digests[1], "size": len(model)}]
    kind = "application/vnd.docker.container.image.v1+json"
    described = {"mediaType": kind, "digest": digests[0], "size": len(config)}
    manifest.write_text(json.dumps({"schemaVersion": 2, "config": described, "layers": layers}))
    assert named() == {
        "someone/model": ("hub", "checkpoint", 36),
        "someone/model-GGUF:Q4_K_M": ("hub", "gguf", 4),
        "someone/model-GGUF:Q8_0": ("hub", "gguf", 10),
        "someone/model-GGUF:F16": ("hub", "mmproj", 3),
        "tiny:latest": ("ollama", "gguf", len(config) + len(model)),
        "someone/model-GGUF/m-Q6_K.gguf": ("lmstudio", "gguf", 3),
        "mine.gguf": ("ggufkit", "gguf", 4),
    }
    assert find("tiny")[0].where is Where.OLLAMA
    remove(find("tiny"))
    remove(find("mine.gguf"))
    remove(find("someone/model-GGUF/m-Q6_K.gguf"))
    assert {where for where, _, _ in named().values()} == {"hub"}
    assert everything(home / ".ollama") == set()
    assert own.is_dir(), "the folder for models stays"


def test_only_what_is_shown_goes(home: Path) -> None:
    folder = cache(home, "a/b", COMMIT, {"m-Q4_K_M.gguf": b"four", "m-Q8_0.gguf": b"eight", "README.md": b"#"})
    cache(home, "a/other", COMMIT, {"m-Q4_K_M.gguf": b"four"})
    before = everything(home / "hub")
    removed = remove(find("A/B:q4_k_m"))
    assert removed[0].freed == 4
    gone = before - everything(home / "hub")
    assert {Path(path).name for path in gone} == {"m-Q4_K_M.gguf", hashlib.sha256(b"four").hexdigest()}
    assert all(path.startswith("models--a--b/") for path in gone)
    remove(find("a/b"))
    assert not folder.exists()
    assert (home / "hub" / "models--a--other").exists()


def test_what_another_snapshot_shows_stays(home: Path) -> None:
    cache(home, "a/b", OLDER, {"m-Q4_K_M.gguf": b"four"}, main=False)
    folder = cache(home, "a/b", COMMIT, {"m-Q4_K_M.gguf": b"four"})
    assert set(named()) == {"a/b:Q4_K_M", f"a/b:Q4_K_M@{OLDER[:12]}"}
    remove(find("a/b:Q4_K_M"))
    assert set(named()) == {f"a/b:Q4_K_M@{OLDER[:12]}"}
    assert (folder / "snapshots" / OLDER / "m-Q4_K_M.gguf").read_bytes() == b"four"


def test_unfinished_downloads(home: Path) -> None:
    folder = cache(home, "a/b", COMMIT, {"config.json": b"{}"})
    for name in (".m.gguf.abc.ggufkit-pull", "abc.incomplete"):
        (folder / "blobs" / name).write_bytes(b"part")
    model = find("a/b")[0]
    assert (model.kind, model.size) == ("unfinished", 8)
    remove([model])
    assert not folder.exists()


def test_a_link_that_leads_out_is_cut_and_not_followed(home: Path) -> None:
    outside = home / "precious.gguf"
    outside.write_bytes(b"precious")
    folder = cache(home, "a/b", COMMIT, {"README.md": b"#"})
    (folder / "snapshots" / COMMIT / "m-Q4_0.gguf").symlink_to(outside)
    remove(find("a/b:Q4_0"))
    assert outside.read_bytes() == b"precious"


def test_names_that_mean_nothing_or_too_much(home: Path) -> None:
    cache(home, "a/b", COMMIT, {"m-Q4_K_M.gguf": b"four"})
    with pytest.raises(InputError, match="no model") as caught:
        find("zzz")
    assert caught.value.hint == "ggufkit list shows what is here"
    with pytest.raises(InputError) as caught:
        find("Q4_K")
    assert caught.value.hint == "did you mean a/b:Q4_K_M?"
    for folder in (home / ".lmstudio/models/x", home / ".local/share/ggufkit/models/x"):
        folder.mkdir(parents=True)
        (folder / "same.gguf").write_bytes(b"x")
    with pytest.raises(InputError, match="several places"):
        find("x/same.gguf")
    assert find("x/same.gguf", Where.LMSTUDIO)[0].where is Where.LMSTUDIO


@pytest.mark.fault
def test_a_cache_that_is_odd(home: Path) -> None:
    (home / "hub" / "models--a--b" / "snapshots" / COMMIT).mkdir(parents=True)
    (home / "hub" / "models--a--b" / "snapshots" / COMMIT / "m-Q4_0.gguf").symlink_to("nowhere")
    (home / "hub" / "models--nonsense").mkdir()
    (home / "hub" / "models--file").write_text("x")
    assert installed_models() == []


def test_a_checkpoint_in_a_folder_where_somebody_works(home: Path) -> None:
    work = home / ".local" / "share" / "ggufkit" / "models" / "work"
    work.mkdir(parents=True)
    theirs = {"thesis.txt", "modeling_new.py", "results.json", ".hidden", "notes.md"}
    for name in (*theirs, "config.json", "tokenizer_config.json", "model-00001-of-00001.safetensors"):
        (work / name).write_bytes(b"{}")
    assert {path.name for path in remove(find("work"))[0].files}.isdisjoint(theirs)
    assert everything(work) == theirs
