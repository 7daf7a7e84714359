"""Shards and index against each other: what is missing, cut, foreign or out of place is named, with what to do."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import handmade_checkpoint
import numpy as np
import pytest
from safetensors.numpy import save_file

from ggufkit.checkpoints import open_checkpoint
from ggufkit.checkpoints.folder import check_folder
from ggufkit.conversion import convert
from ggufkit.conversion.check import check_checkpoint
from ggufkit.errors import CheckpointError, GgufkitError, UnsafeError
from ggufkit.findings import Severity, exit_code, worst

INDEX = "model.safetensors.index.json"
HTML = b"<!DOCTYPE html><html><body>Sign in to continue</body></html>" * 50
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 988097824\n"


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def of_another_model(path: Path) -> None:
    save_file({name: np.zeros((2, 2), np.float32) for name in ("other.weight", "lm_head.weight")}, path)


SHARDS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing": (Path.unlink, "missing"),
    "cut by one byte": (cut, "bytes"),
    "empty": (lambda path: path.write_bytes(b""), "is empty"),
    "a web page": (lambda path: path.write_bytes(HTML), "is a web page"),
    "an LFS pointer": (lambda path: path.write_bytes(POINTER), "is a Git LFS pointer"),
    "of another model": (of_another_model, "where it is not"),
    "a folder": (lambda path: (path.unlink(), path.mkdir()), "missing"),
    "a pipe": (lambda path: (path.unlink(), os.mkfifo(path)), "missing"),
}


@pytest.mark.parametrize("name", SHARDS)
def test_a_damaged_shard_is_named_with_what_to_do(name: str, tmp_path: Path) -> None:
    damage, said = SHARDS[name]
    first, _ = handmade_checkpoint.shard(tmp_path / "model")
    damage(first)
    with pytest.raises(CheckpointError, match=said) as caught:
        convert(tmp_path / "model", tmp_path / "out.gguf")
    assert first.name in f"{caught.value} {caught.value.hint}"
    assert "download" in (caught.value.hint or "")
    assert not (tmp_path / "out.gguf").exists()


def index_changes() -> dict[str, Callable[[dict[str, Any]], Any]]:
    weights = "weight_map"
    return {
        "a list": lambda index: index.update(weight_map=[*index[weights]]),
        "empty": lambda index: index.update(weight_map={}),
        "numbers": lambda index: index[weights].update({"lm_head.weight": 7}),
        "no map": lambda index: index.pop(weights),
        "a name too long": lambda index: index[weights].update({"lm_head.weight": "a" * 300 + ".safetensors"}),
        "another kind of file": lambda index: index[weights].update({"lm_head.weight": "config.json"}),
        "total too small": lambda index: index.update(metadata={"total_size": 1}),
        "total too large": lambda index: index.update(metadata={"total_size": 10**12}),
        "total off by one": lambda index: index["metadata"].update(total_size=index["metadata"]["total_size"] - 1),
        "total a text": lambda index: index.update(metadata={"total_size": "many"}),
        "a million entries": lambda index: index[weights].update(
            {f"t{i}": "model-00001-of-00002.safetensors" for i in range(1_000_000)}
        ),
    }


def change_index(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    path = folder / INDEX
    index = json.loads(path.read_text())
    index["metadata"] = {"total_size": sum(array.nbytes for array in handmade_checkpoint.tensors().values())}
    change(index)
    path.write_text(json.dumps(index))


@pytest.mark.parametrize("name", index_changes())
def test_an_index_that_lies_is_refused(name: str, tmp_path: Path) -> None:
    handmade_checkpoint.shard(tmp_path)
    change_index(tmp_path, index_changes()[name])
    with pytest.raises(CheckpointError, match=r"model\.safetensors\.index\.json"), open_checkpoint(tmp_path):
        pass


def test_an_honest_total_is_the_bytes_of_tensors_or_of_files(tmp_path: Path) -> None:
    shards = handmade_checkpoint.shard(tmp_path)
    tensors = sum(array.nbytes for array in handmade_checkpoint.tensors().values())
    for total in (tensors, float(tensors), sum(path.stat().st_size for path in shards), None):
        change_index(tmp_path, lambda index, total=total: index["metadata"].update(total_size=total))
        with open_checkpoint(tmp_path) as checkpoint:
            assert set(checkpoint.tensors) == set(handmade_checkpoint.tensors())


# ---- links


def test_links_of_the_hub_s_cache_lead_to_its_blobs(tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "models--a--b/blobs", tmp_path / "models--a--b/snapshots/0123"
    handmade_checkpoint.write(blobs)
    snapshot.mkdir(parents=True)
    for path in blobs.iterdir():
        (snapshot / path.name).symlink_to(f"../../blobs/{path.name}")
    convert(snapshot, tmp_path / "out.gguf")
    (tmp_path / "seen-from-here").symlink_to(snapshot)
    with open_checkpoint(tmp_path / "seen-from-here"):
        pass


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "tokenizer.json", "README.md"])
def test_a_link_out_of_the_folder_is_unsafe(file: str, tmp_path: Path) -> None:
    folder, outside = handmade_checkpoint.write(tmp_path / "model"), tmp_path / "outside"
    outside.write_bytes((folder / file).read_bytes() if (folder / file).exists() else b"secret")
    (folder / file).unlink(missing_ok=True)
    (folder / file).symlink_to(outside)
    with pytest.raises(UnsafeError, match="outside of its folder"):
        convert(folder, tmp_path / "out.gguf")
    assert exit_code(check_checkpoint(folder)) == 4


def test_links_within_the_folder_and_of_other_files_are_fine(tmp_path: Path) -> None:
    folder = handmade_checkpoint.write(tmp_path / "model")
    (folder / "same.safetensors").symlink_to("model.safetensors")
    (folder / "picture.png").symlink_to("/etc/hostname")
    check_folder(folder)


def test_a_description_of_terabytes_is_not_read(tmp_path: Path) -> None:
    folder = handmade_checkpoint.write(tmp_path / "model")
    for name in ("tokenizer.json", "merges.txt", "README.md", "tokenizer.model"):
        with (folder / name).open("ab") as file:
            before = file.tell()
            file.truncate(1 << 40)
            with pytest.raises(CheckpointError, match="too large"):
                convert(folder, tmp_path / "out.gguf")
            file.truncate(before)


# ---- what is good must stay good


def names(folder: Path) -> set[str]:
    with open_checkpoint(folder) as checkpoint:
        return set(checkpoint.tensors)


def test_an_index_that_is_left_over_beside_the_whole_file_does_not_matter(tmp_path: Path) -> None:
    folder = handmade_checkpoint.write(tmp_path / "model")
    whole = names(folder)
    (folder / INDEX).write_text(json.dumps({"weight_map": {"x": "model-00001-of-00002.safetensors"}}))
    assert names(folder) == whole


def test_an_adapter_beside_bins_is_not_taken_for_the_model(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    folder = handmade_checkpoint.write(tmp_path / "model")
    whole = names(folder)
    (folder / "model.safetensors").unlink()
    tensors = {name: torch.from_numpy(value) for name, value in handmade_checkpoint.tensors().items()}
    torch.save(tensors, folder / "pytorch_model.bin")
    save_file({"lora_A.weight": np.zeros((2, 2), np.float32)}, folder / "adapter_model.safetensors")
    assert names(folder) == whole


def test_a_snapshot_s_subfolder_leads_to_the_same_blobs(tmp_path: Path) -> None:
    blobs, inner = tmp_path / "models--a--b/blobs", tmp_path / "models--a--b/snapshots/0123/text/encoder"
    handmade_checkpoint.write(blobs)
    inner.mkdir(parents=True)
    for path in blobs.iterdir():
        (inner / path.name).symlink_to(f"../../../../blobs/{path.name}")
    check_folder(inner)


def test_a_data_set_beside_the_model_may_be_large(tmp_path: Path) -> None:
    folder = handmade_checkpoint.write(tmp_path / "model")
    for name in ("train.txt", "train.json"):
        with (folder / name).open("wb") as file:
            file.truncate(1 << 40)
    check_folder(folder)


def test_buffers_may_hold_infinity(tmp_path: Path) -> None:
    folder = handmade_checkpoint.write(tmp_path / "model")
    buffer = {"model.layers.0.attention.masked_bias": np.array(-np.inf, np.float16)}
    save_file({**handmade_checkpoint.tensors(), **buffer}, folder / "model.safetensors")
    assert worst(check_checkpoint(folder, weights=True)) < Severity.UNFIT


# ---- files that change under us


@pytest.mark.parametrize("change", ["cut", "written to"])
def test_a_file_that_changes_while_it_is_converted_gives_no_output(
    change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ggufkit.checkpoints.safetensors import SafetensorsTensor

    folder = handmade_checkpoint.write(tmp_path / "model")
    path, original = folder / "model.safetensors", SafetensorsTensor.read_into

    def read_into(self: SafetensorsTensor, buffer: memoryview, start: int = 0) -> None:
        original(self, buffer, start)
        if change == "cut":
            os.truncate(path, path.stat().st_size // 2)
        else:
            os.utime(path, ns=(0, 0))

    monkeypatch.setattr(SafetensorsTensor, "read_into", read_into)
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        convert(folder, tmp_path / "out.gguf")
    assert not (tmp_path / "out.gguf").exists()


# ---- the check that `ggufkit check` shows


def test_weights_are_looked_through_when_asked_for(tmp_path: Path) -> None:
    weights = handmade_checkpoint.tensors()
    weights["model.norm.weight"][3] = np.nan
    weights["lm_head.weight"][2, 5] = 70_000
    weights["model.embed_tokens.weight"][1, 1] = -np.inf
    weights["model.layers.0.mlp.up_proj.weight"][:] = 1e-42  # denormal, and well
    weights["model.layers.1.mlp.up_proj.weight"][:] = 0
    folder = handmade_checkpoint.write(tmp_path, weights)
    assert worst(check_checkpoint(folder)) < Severity.UNFIT
    said = {finding.what: finding.severity for finding in check_checkpoint(folder, weights=True)}
    assert said["tensor 'model.norm.weight', element 3 is NaN"] is Severity.UNFIT
    assert said["tensor 'model.embed_tokens.weight', element 33 [1, 1] is infinity"] is Severity.UNFIT
    assert said["tensor 'lm_head.weight', element 69 [2, 5] is beyond F16's 65504"] is Severity.WARNING
    assert len(said) == 3


def test_whatever_is_wrong_is_a_finding(tmp_path: Path) -> None:
    folder = handmade_checkpoint.write(tmp_path / "model")
    assert check_checkpoint(folder) == []
    (folder / "modeling_own.py").write_text("")
    assert [finding.severity for finding in check_checkpoint(folder)] == [Severity.NOTE]
    (folder / "tokenizer.json").write_text("{}")
    assert exit_code(check_checkpoint(folder)) == 3
    assert exit_code(check_checkpoint(tmp_path / "nothing")) == 3
    assert exit_code(check_checkpoint(folder / "config.json")) == 3
    with pytest.raises(GgufkitError):
        convert(folder, tmp_path / "out.gguf")
