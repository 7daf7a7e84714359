"""`.bin` files that torch did not write, or that say more than they hold: refused, and nothing in them runs."""

import io
import json
import os
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import handmade_checkpoint
import pytest
import torch

from ggufkit.checkpoints import open_checkpoint
from ggufkit.checkpoints.torch_bin import TorchTensor
from ggufkit.conversion import convert
from ggufkit.errors import CheckpointError, GgufkitError, UnsafeError

BIN = "pytorch_model.bin"


class Evil:
    """Pickles as a call of something that would leave a marker."""

    def __init__(self, marker: Path, how: Callable[..., object] = os.system) -> None:
        self.marker, self.how = marker, how

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return self.how, (f"touch {self.marker}" if self.how is os.system else f"open({str(self.marker)!r}, 'w')",)


def weights() -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(array) for name, array in handmade_checkpoint.tensors().items()}


def saved(state: object) -> bytes:
    file = io.BytesIO()
    torch.save(state, file)
    return file.getvalue()


def repacked(content: bytes, change: Callable[[str, bytes], bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(target, "w", compression) as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
    return target.getvalue()


def tar() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name in ("storages", "tensors", "pickle"):
            archive.addfile(tarfile.TarInfo(name), io.BytesIO())
    return file.getvalue()


def with_pickle(code: bytes) -> bytes:
    return repacked(saved(weights()), lambda name, old: code if name.endswith("data.pkl") else old)


EVIL: dict[str, Callable[[Path], bytes]] = {
    "saved": lambda marker: saved({"lm_head.weight": Evil(marker)}),
    "saved by eval": lambda marker: saved({"lm_head.weight": Evil(marker, eval)}),
    "saved as before zip": lambda marker: pickle.dumps({"lm_head.weight": Evil(marker)}, protocol=2),
    "a bare pickle": lambda marker: pickle.dumps(Evil(marker)),
    "beside good weights": lambda marker: saved({**weights(), "x": Evil(marker)}),
    "in the zip's pickle": lambda marker: with_pickle(pickle.dumps(Evil(marker), protocol=2)),
    "a class of its own": lambda _: with_pickle(b"\x80\x02csubprocess\ncall\n(X\x02\x00\x00\x00ls\x85R."),
    "by getattr": lambda _: with_pickle(b"\x80\x02cbuiltins\ngetattr\n(cos\nsystem\nX\x01\x00\x00\x00atR."),
}


def folder_with(content: bytes, folder: Path) -> Path:
    handmade_checkpoint.write(folder)
    (folder / "model.safetensors").unlink()
    (folder / BIN).write_bytes(content)
    return folder


@pytest.mark.parametrize("name", EVIL)
def test_no_pickle_runs(name: str, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    folder = folder_with(EVIL[name](marker), tmp_path / "model")
    with pytest.raises(UnsafeError, match=r"pytorch_model\.bin"):
        convert(folder, tmp_path / "out.gguf")
    assert not marker.exists()


DAMAGED: dict[str, Callable[[], bytes]] = {
    "empty": lambda: b"",
    "a web page": lambda: b"<html><body>Sign in</body></html>",
    "an LFS pointer": lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
    "a tar": tar,
    "zeros": lambda: bytes(1000),
    "compressed members": lambda: repacked(saved(weights()), lambda _, old: old, zipfile.ZIP_DEFLATED),
    "a bomb": lambda: repacked(
        saved(weights()), lambda name, old: bytes(64 << 20) if name.endswith(".pkl") else old, zipfile.ZIP_DEFLATED
    ),
    "a zip of something else": lambda: repacked(saved(weights()), lambda _, __: b"x"),
    "half": lambda: saved(weights())[:4000],
    "all but the last byte": lambda: saved(weights())[:-1],
    "no tensors": lambda: saved([1, 2, 3]),
    "numbers for names": lambda: saved({1: torch.ones(2)}),
    "repeated elements": lambda: saved({"lm_head.weight": torch.ones(1).expand(1 << 40)}),
    "complex numbers": lambda: saved({"lm_head.weight": torch.ones(2, dtype=torch.complex64)}),
    "a sparse tensor": lambda: saved({"lm_head.weight": torch.eye(3).to_sparse()}),
    "a quantized tensor": lambda: saved(
        {"lm_head.weight": torch.quantize_per_tensor(torch.ones(4), 1, 0, torch.qint8)}
    ),
    "a tensor of no device": lambda: saved({"lm_head.weight": torch.ones(4, device="meta")}),
    "a view beyond its storage": lambda: repacked(
        saved({"lm_head.weight": torch.ones(4)}), lambda _, old: old.replace(b"K\x04\x85", b"K\x7f\x85")
    ),
    "storage cut": lambda: repacked(saved(weights()), lambda name, old: old[:8] if "/data/" in name else old),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_files_are_named(name: str, tmp_path: Path) -> None:
    folder = folder_with(DAMAGED[name](), tmp_path / "model")
    with pytest.raises((CheckpointError, UnsafeError), match=r"pytorch_model\.bin") as caught:
        convert(folder, tmp_path / "out.gguf")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out.gguf").exists()


def sharded(folder: Path, **changes: str | None) -> Path:
    handmade_checkpoint.write(folder)
    (folder / "model.safetensors").unlink()
    held, names = weights(), sorted(weights())
    index: dict[str, str] = {}
    for part in range(2):
        shard = f"pytorch_model-{part + 1:05}-of-00002.bin"
        torch.save({name: held[name] for name in names[part::2]}, folder / shard)
        index |= dict.fromkeys(names[part::2], shard)
    index = {name: shard for name, shard in {**index, **changes}.items() if shard is not None}
    (folder / f"{BIN}.index.json").write_text(json.dumps({"weight_map": index}))
    return folder


def test_shards_of_bins_are_one_checkpoint(tmp_path: Path) -> None:
    with open_checkpoint(sharded(tmp_path)) as checkpoint:
        assert set(checkpoint.tensors) == set(weights())


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("../x.bin", UnsafeError),
        ("/etc/passwd", UnsafeError),
        ("C:\\x.bin", UnsafeError),
        ("none.bin", CheckpointError),
    ],
)
def test_an_index_of_bins_stays_in_its_folder(name: str, expected: type[GgufkitError], tmp_path: Path) -> None:
    with pytest.raises(expected), open_checkpoint(sharded(tmp_path, **{"lm_head.weight": name})):
        pass


def test_an_index_of_bins_must_be_right(tmp_path: Path) -> None:
    for number, changes in enumerate(
        ({"made.up": "pytorch_model-00001-of-00002.bin"}, {"lm_head.weight": "pytorch_model-00002-of-00002.bin"})
    ):
        with (
            pytest.raises(CheckpointError, match="where it is not"),
            open_checkpoint(sharded(tmp_path / f"{number}", **changes)),
        ):
            pass


def test_a_bin_that_is_cut_while_it_is_read_is_an_error_and_not_a_signal(tmp_path: Path) -> None:
    folder = folder_with(saved(weights()), tmp_path / "model")
    with open_checkpoint(folder) as checkpoint:
        os.truncate(folder / BIN, 4096)
        last = max(checkpoint.stored.values(), key=lambda tensor: tensor.position)
        with pytest.raises(CheckpointError, match="cut short"):
            last.read_into(memoryview(bytearray(last.size)))
        with pytest.raises(CheckpointError, match="changed"):
            checkpoint.check_unchanged()


def test_a_layout_that_is_not_row_major_is_read_from_the_file(tmp_path: Path) -> None:
    plain = weights()["lm_head.weight"]
    folder = folder_with(saved({"a": plain.T, "b": plain[3:9], "c": plain[:, ::2]}), tmp_path / "model")
    with open_checkpoint(folder) as checkpoint:
        for name, expected in (("a", plain.T), ("b", plain[3:9]), ("c", plain[:, ::2])):
            tensor = checkpoint.stored[name]
            assert isinstance(tensor, TorchTensor)
            assert tensor.file.offset(tensor.tensor.data_ptr()) is not None
            buffer = bytearray(tensor.size)
            tensor.read_into(memoryview(buffer))
            assert bytes(buffer) == expected.contiguous().numpy().tobytes()
