"""Models where LM Studio looks for them: its folder, its layout, links instead of copies."""

import json
import subprocess
from pathlib import Path

import gguf
import numpy as np
import pytest
import tiny_gguf
import tiny_model

from ggufkit.errors import GgufFileError, OutputError, UsageError
from ggufkit.exports import lmstudio
from ggufkit.llamacpp.find import find


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny_model.write(tmp_path / "My Model-Q8_0.gguf")


def write_projector(path: Path) -> Path:
    writer = gguf.GGUFWriter(path, "clip")
    writer.add_type("mmproj")
    writer.add_tensor("x", np.zeros((4, 8), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_the_folder_is_the_one_that_lm_studio_uses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    old, new, elsewhere = tmp_path / ".cache/lm-studio/models", tmp_path / ".lmstudio/models", tmp_path / "elsewhere"
    assert lmstudio.models_folder() == new
    old.mkdir(parents=True)
    assert lmstudio.models_folder() == old
    new.mkdir(parents=True)
    assert lmstudio.models_folder() == new
    (tmp_path / ".lmstudio-home-pointer").write_text(f"{elsewhere}\n")
    elsewhere.mkdir()
    (elsewhere / "models").mkdir()
    assert lmstudio.models_folder() == elsewhere / "models"
    (elsewhere / "settings.json").write_text("no JSON")
    assert lmstudio.models_folder() == elsewhere / "models"
    (elsewhere / "settings.json").write_text(json.dumps({"downloadsFolder": "/big/disk"}))
    assert lmstudio.models_folder() == Path("/big/disk")


def test_a_model_and_its_projector_are_linked_side_by_side(model: Path, tmp_path: Path):
    projector = write_projector(tmp_path / "vision.gguf")
    plan = lmstudio.plan_export(model, None, tmp_path / "models", projector=projector)
    assert plan.name == "ggufkit/My-Model"
    done = lmstudio.export(plan)
    folder = tmp_path / "models/ggufkit/My-Model"
    assert {file.path for file in done} == {folder / model.name, folder / "mmproj-vision.gguf"}
    assert {path.name for path in folder.iterdir()} == {file.path.name for file in done}
    assert (folder / model.name).read_bytes() == model.read_bytes()
    assert {file.way for file in done} <= {"hard link", "reflink"}
    assert {file.way for file in lmstudio.export(plan)} == {"already there"}


def test_a_copy_is_not_made_twice(model: Path, tmp_path: Path):
    plan = lmstudio.plan_export(model, None, tmp_path / "models")
    assert [file.way for file in lmstudio.export(plan, copy=True)] == ["copy"]
    assert [file.way for file in lmstudio.export(plan, copy=True)] == ["already there"]


def test_a_file_without_the_suffix_gets_it(tmp_path: Path):
    blob = tiny_model.write(tmp_path / "sha256-00ff")
    [(_, target)] = lmstudio.plan_export(blob, "me/mine", tmp_path / "models").files
    assert target.name == "sha256-00ff.gguf"


def test_a_model_is_no_projector(model: Path, tmp_path: Path):
    with pytest.raises(GgufFileError, match="no projector"):
        lmstudio.plan_export(model, None, tmp_path / "models", projector=model)


def test_another_file_of_the_same_name_is_not_replaced_unasked(model: Path, tmp_path: Path):
    plan = lmstudio.plan_export(model, "me/mine", tmp_path / "models")
    target = tmp_path / "models/me/mine" / model.name
    target.parent.mkdir(parents=True)
    target.write_text("another")
    with pytest.raises(OutputError, match="another file"):
        lmstudio.export(plan)
    assert target.read_text() == "another"
    lmstudio.export(plan, overwrite=True, copy=True)
    assert target.read_bytes() == model.read_bytes()
    assert not target.samefile(model)
    assert [path.name for path in target.parent.iterdir()] == [model.name]


@pytest.mark.engine
def test_all_parts_of_a_split_model_go_along(tmp_path: Path):
    whole = tiny_gguf.write_model(tmp_path / "big-F16.gguf")
    split = [find().tool("llama-gguf-split"), "--split-max-size", "1M", whole, tmp_path / "big-F16"]
    subprocess.run(split, check=True, capture_output=True)
    parts = sorted(tmp_path.glob("big-F16-*.gguf"))
    done = lmstudio.export(lmstudio.plan_export(parts[0], None, tmp_path / "models"))
    assert sorted(file.path.name for file in done) == [part.name for part in parts]
    assert done[-1].path == tmp_path / "models/ggufkit/big" / parts[0].name  # the one that makes it a model, last
    with pytest.raises(GgufFileError, match="not its first"):
        lmstudio.plan_export(parts[1], None, tmp_path / "models")


@pytest.mark.parametrize("name", ["../x", "a/b/c", "me/", "a b/c", ".hidden/x"])
def test_names_that_leave_the_folder_are_refused(model: Path, tmp_path: Path, name: str):
    with pytest.raises(UsageError, match="cannot be the name"):
        lmstudio.plan_export(model, name, tmp_path / "models")
    assert not (tmp_path / "models").exists()


def test_a_folder_is_no_model(tmp_path: Path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(GgufFileError, match="is a folder") as caught:
        lmstudio.plan_export(tmp_path, None, tmp_path / "models")
    assert "quantize" in (caught.value.hint or "")
