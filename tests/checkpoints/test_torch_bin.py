"""`.bin` weights: the same tensors as safetensors, and nothing pickled in them runs."""

import pickle
from pathlib import Path

import handmade_checkpoint
import pytest
import torch

from ggufkit.checkpoints import open_checkpoint
from ggufkit.conversion import convert
from ggufkit.errors import CheckpointError, UnsafeError


def as_bin(folder: Path) -> Path:
    handmade_checkpoint.write(folder)
    (folder / "model.safetensors").unlink()
    weights = {name: torch.from_numpy(array) for name, array in handmade_checkpoint.tensors().items()}
    weights["lm_head.weight"] = weights["lm_head.weight"].T.contiguous().T  # a layout that is not row-major
    torch.save(weights, folder / "pytorch_model.bin")
    return folder


def test_bin_and_safetensors_give_the_same_tensors(tmp_path: Path) -> None:
    from gguf import GGUFReader

    convert(as_bin(tmp_path / "model"), tmp_path / "bin.gguf")
    convert(handmade_checkpoint.write(tmp_path / "safe" / "model"), tmp_path / "safe.gguf")
    mine, other = (
        {t.name: t.data.tobytes() for t in GGUFReader(tmp_path / n).tensors} for n in ("bin.gguf", "safe.gguf")
    )
    assert mine == other


def test_code_in_a_pickle_is_refused_and_does_not_run(tmp_path: Path) -> None:
    marker = tmp_path / "marker"

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (marker,))

    folder = handmade_checkpoint.write(tmp_path / "model")
    (folder / "model.safetensors").unlink()
    for save in (torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))):
        save({"lm_head.weight": Evil()}, folder / "pytorch_model.bin")
        with pytest.raises(UnsafeError, match="pickles more than tensors"), open_checkpoint(folder):
            pass
    assert not marker.exists()


def test_a_truncated_bin_is_an_error(tmp_path: Path) -> None:
    folder = as_bin(tmp_path)
    path = folder / "pytorch_model.bin"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises((CheckpointError, UnsafeError), match=r"pytorch_model\.bin"), open_checkpoint(folder):
        pass
