"""What a child of ours refuses arrives as the same error, with what the system said behind it."""

import errno
import json
import sys
from pathlib import Path

import pytest

from ggufkit.cli._errors import report
from ggufkit.errors import GgufFileError, GgufkitError, InputError, LlamaCppError, OutputError
from ggufkit.evaluation import child_process


def refused(error: GgufkitError, request: Path, monkeypatch: pytest.MonkeyPatch) -> GgufkitError:
    """Let a child that refuses with this error be asked; return what its parent raises."""

    def run(*_: object, **__: object) -> None:
        request.with_suffix(".error.json").write_text(child_process.refusal(error))
        raise LlamaCppError("it ended with status 3")

    monkeypatch.setattr(child_process, "run", run)
    with pytest.raises(type(error)) as caught:
        child_process.ask("some.module", request, "model.gguf")
    return caught.value


def raised(error: GgufkitError, cause: BaseException | None) -> GgufkitError:
    try:
        raise error from cause
    except GgufkitError as caught:
        return caught


def test_message_hint_and_kind_arrive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = refused(raised(InputError("no good", hint="try this"), None), tmp_path / "r.json", monkeypatch)
    assert (str(found), found.hint, found.exit_code) == ("no good", "try this", InputError.exit_code)


@pytest.mark.parametrize(
    ("number", "status"), [(errno.EIO, OutputError.exit_code), (errno.EACCES, GgufFileError.exit_code)]
)
def test_a_disk_that_fails_a_child_is_not_the_fault_of_the_file(
    number: int, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = raised(GgufFileError("cannot read m.gguf"), OSError(number, "it failed"))
    assert report(refused(error, tmp_path / "r.json", monkeypatch)) == status


def test_a_full_disk_is_refused_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    request = tmp_path / "r.json"
    request.write_text("{}")
    monkeypatch.setattr(sys, "argv", ["child", str(request)])
    with (
        pytest.raises(SystemExit) as ended,
        child_process.refusing(),
        Path("/dev/full").open("w") as file,
    ):
        file.write("more than there is room for")
    assert ended.value.code == child_process.REFUSED

    def run(*_: object, **__: object) -> None:
        raise LlamaCppError("it ended with status 3")

    monkeypatch.setattr(child_process, "run", run)
    told = request.with_suffix(".error.json").read_bytes()
    monkeypatch.setattr(Path, "unlink", lambda *_args, **_more: None)
    request.with_suffix(".error.json").write_bytes(told)
    with pytest.raises(OutputError, match="No space left") as caught:
        child_process.ask("some.module", request, "model.gguf")
    assert report(caught.value) == OutputError.exit_code


def test_a_child_that_dies_is_told_of_with_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*_: object, **__: object) -> None:
        raise LlamaCppError("signal SIGSEGV (command: python)")

    monkeypatch.setattr(child_process, "run", run)
    (tmp_path / "r.error.json").write_text(json.dumps({"message": "of an earlier run", "hint": None, "kind": "x"}))
    with pytest.raises(LlamaCppError, match=r"^model.gguf: signal SIGSEGV$"):
        child_process.ask("some.module", tmp_path / "r.json", "model.gguf")
