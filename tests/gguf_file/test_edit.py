"""Copies with other metadata: nothing else changes, and what llama.cpp's `gguf` package reads is what was set."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import gguf
import pytest
import tiny_model
from gguf import GGUFValueType as Type

from ggufkit.errors import GgufFileError, OutputError
from ggufkit.gguf_file.edit import write_edited
from ggufkit.gguf_file.reader import read_header
from ggufkit.gguf_file.writer import Value


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny_model.write(tmp_path / "model.gguf")


def tensors(path: Path) -> dict[str, bytes]:
    return {tensor.name: tensor.data.tobytes() for tensor in gguf.GGUFReader(path).tensors}


def test_set_and_remove(model: Path, tmp_path: Path) -> None:
    edited = tmp_path / "edited.gguf"
    values = {
        "general.name": Value("A much longer name than before: ü" * 10, Type.STRING),
        "new.flag": Value(True, Type.BOOL),
        "new.list": Value([1, 2, 3], Type.ARRAY, Type.UINT16),
        "new.texts": Value(["a", "ß"], Type.ARRAY, Type.STRING),
    }
    size = write_edited(read_header(model), edited, values=values, without=["tokenizer.chat_template"])
    assert size == edited.stat().st_size
    fields = gguf.GGUFReader(edited).fields
    before = [key for key in gguf.GGUFReader(model).fields if not key.startswith("GGUF.")]
    after = [key for key in fields if not key.startswith("GGUF.")]
    kept = [key for key in before if key != "tokenizer.chat_template"]
    assert after == [*kept, "new.flag", "new.list", "new.texts"]
    assert fields["general.name"].contents() == values["general.name"].value
    assert fields["new.flag"].contents() is True
    assert fields["new.list"].contents() == [1, 2, 3]
    assert fields["new.texts"].contents() == ["a", "ß"]
    assert tensors(edited) == tensors(model)


def test_back_again_gives_the_same_bytes(model: Path, tmp_path: Path) -> None:
    there, back = tmp_path / "there.gguf", tmp_path / "back.gguf"
    write_edited(read_header(model), there, values={"general.name": Value("other", Type.STRING)})
    write_edited(read_header(there), back, values={"general.name": Value("tiny", Type.STRING)})
    assert back.read_bytes() == model.read_bytes()


@pytest.mark.parametrize("alignment", [8, 64, 4096])
def test_alignments(model: Path, tmp_path: Path, alignment: int) -> None:
    writer = gguf.GGUFWriter(tmp_path / "aligned.gguf", "llama")
    writer.add_custom_alignment(alignment)
    for tensor in gguf.GGUFReader(model).tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    source = read_header(tmp_path / "aligned.gguf")
    edited = tmp_path / "edited.gguf"
    write_edited(source, edited, values={"general.name": Value("x", Type.STRING)})
    assert read_header(edited).data_offset % alignment == 0
    assert tensors(edited) == tensors(model)


def test_a_source_that_changes(model: Path, tmp_path: Path) -> None:
    header = read_header(model)
    with model.open("ab") as file:
        file.write(b"more")
    with pytest.raises(GgufFileError, match="changed"):
        write_edited(header, tmp_path / "edited.gguf", values={})
    assert not (tmp_path / "edited.gguf").exists()


def test_where_the_kernel_copies_nothing(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "copy_file_range", raising=False)
    edited = tmp_path / "edited.gguf"
    write_edited(read_header(model), edited, values={"general.name": Value("x", Type.STRING)})
    assert tensors(edited) == tensors(model)


def test_the_command(model: Path, tmp_path: Path) -> None:
    def edit(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "ggufkit", "edit", *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    (tmp_path / "t.jinja").write_text("{{ messages }}")
    lists = ["--set", "general.tags=a,b", "--set", "a.numbers=u32[]:1, 2", "--set", "a.flags=bool[]:True,false"]
    done = edit("model.gguf", "-o", "e.gguf", *lists, "--chat-template", "t.jinja")
    assert done.returncode == 0, done.stderr
    fields = gguf.GGUFReader(tmp_path / "e.gguf").fields
    assert fields["general.tags"].contents() == ["a", "b"]
    assert fields["a.numbers"].contents() == [1, 2]
    assert fields["a.flags"].contents() == [True, False]
    assert fields["tokenizer.chat_template"].contents() == "{{ messages }}"
    for arguments, code, message in (
        (["model.gguf", "-o", "model.gguf", "--set", "general.name=x"], 2, "the same file"),
        (["model.gguf", "-o", "x.gguf", "--set", "llama.context_length=many"], 2, "must be of type u32"),
        (["model.gguf", "-o", "x.gguf", "--set", "general.architecture=x"], 2, "follows from the model"),
        (["model.gguf", "-o", "x.gguf", "--remove", "general.nam"], 2, "no key 'general.nam'"),
        (["model.gguf", "-o", "x.gguf", "--set", "a.b=u32:1e999"], 2, "must be of type u32"),
        (["model.gguf", "-o", "x.gguf", "--set", "a.b=u32[]:1,x"], 2, "must be of type u32, not 'x'"),
        (["model.gguf", "-o", "x.gguf", "--set", "general.name=x", "--remove", "general.name"], 2, "to be removed"),
        (["model.gguf", "-o", "x.gguf"], 2, "nothing is to be changed"),
        (["model.gguf", "--set", "general.name=x"], 2, "where to write"),
    ):
        done = edit(*arguments)
        assert (done.returncode, message in done.stderr) == (code, True), done.stderr
    assert not (tmp_path / "x.gguf").exists()


@pytest.mark.fault
def test_a_full_disk(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import resource

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    header = read_header(model)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (model.stat().st_size // 2, limits[1]))
        with pytest.raises(OutputError):
            write_edited(header, tmp_path / "edited.gguf", values={})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, old)
    assert [path.name for path in tmp_path.iterdir()] == ["model.gguf"]
