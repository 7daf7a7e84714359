"""Only the pinned archive is used, and nothing in it can write outside its folder."""

import dataclasses
import hashlib
import io
import tarfile

import pytest

from ggufkit.errors import InputError, LlamaCppError, UnsafeError
from ggufkit.llamacpp import packages, pin, sdist


def archive(path, members):
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(f"pkg-1.0/{name}")
            if isinstance(content, bytes):
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
            else:
                member.type, member.linkname = content
                tar.addfile(member)
    return path


def pinned(path):
    return dataclasses.replace(pin.pin(), sha256=hashlib.sha256(path.read_bytes()).hexdigest())


TREE = {"vendor/llama.cpp/CMakeLists.txt": b"project()", "vendor/llama.cpp/src/a.cpp": b"a", "llama_cpp/b.py": b"b"}


def test_only_the_llama_cpp_tree_is_unpacked_and_it_is_read_only(tmp_path):
    file = archive(tmp_path / "x.tar.gz", TREE)
    sdist.unpack(file, pinned(file), tmp_path / "source")
    found = {str(path.relative_to(tmp_path / "source")) for path in (tmp_path / "source").rglob("*") if path.is_file()}
    assert found == {"CMakeLists.txt", "src/a.cpp"}
    assert (tmp_path / "source/CMakeLists.txt").stat().st_mode & 0o222 == 0


@pytest.mark.parametrize(
    "member",
    [
        {"vendor/llama.cpp/../../../evil": b"x"},
        {"vendor/llama.cpp//etc/evil": b"x"},
        {"vendor/llama.cpp/link": (tarfile.SYMTYPE, "/etc/passwd")},
        {"vendor/llama.cpp/link": (tarfile.LNKTYPE, "pkg-1.0/../../evil")},
        {"vendor/llama.cpp/device": (tarfile.CHRTYPE, "")},
    ],
)
def test_members_that_could_leave_the_folder_are_refused(tmp_path, member):
    inside = tmp_path / "inside"
    inside.mkdir()
    file = archive(tmp_path / "x.tar.gz", {**TREE, **member})
    with pytest.raises(UnsafeError):
        sdist.unpack(file, pinned(file), inside / "source")
    assert not list(inside.iterdir())
    assert not (tmp_path / "evil").exists()


@pytest.mark.fault
def test_truncated_archive_leaves_nothing(tmp_path):
    file = archive(tmp_path / "x.tar.gz", {**TREE, "vendor/llama.cpp/big": bytes(range(256)) * 4000})
    file.write_bytes(file.read_bytes()[:-200])
    with pytest.raises(InputError, match="not a whole"):
        sdist.unpack(file, pinned(file), tmp_path / "source")
    assert [path.name for path in tmp_path.iterdir()] == ["x.tar.gz"]


def test_archive_without_the_tree(tmp_path):
    file = archive(tmp_path / "x.tar.gz", {"other": b"x"})
    with pytest.raises(InputError, match="CMakeLists"):
        sdist.unpack(file, pinned(file), tmp_path / "source")


def test_given_file_must_be_the_pinned_one(tmp_path):
    file = archive(tmp_path / "x.tar.gz", TREE)
    assert sdist.fetch(pinned(file), tmp_path, given=file) == file
    with pytest.raises(UnsafeError, match="sha256"):
        sdist.fetch(pin.pin(), tmp_path, given=file)
    with pytest.raises(InputError, match="cannot read"):
        sdist.fetch(pin.pin(), tmp_path, given=tmp_path / "absent")


def fake_pip(monkeypatch, content):
    calls = []

    def pip(arguments, **_):
        calls.append(list(map(str, arguments)))
        folder = arguments[arguments.index("--dest") + 1]
        (folder / "x.tar.gz").write_bytes(content)

    monkeypatch.setattr(packages, "pip", pip)
    return calls


def test_download_is_cached_and_a_broken_cached_file_is_fetched_again(tmp_path, monkeypatch):
    content = archive(tmp_path / "x.tar.gz", TREE).read_bytes()
    wanted = pinned(tmp_path / "x.tar.gz")
    calls = fake_pip(monkeypatch, content)
    cached = sdist.fetch(wanted, tmp_path / "cache")
    assert sdist.fetch(wanted, tmp_path / "cache") == cached
    assert len(calls) == 1
    cached.write_bytes(content[:-1])
    assert sdist.fetch(wanted, tmp_path / "cache").read_bytes() == content
    assert len(calls) == 2
    assert "--require-hashes" in calls[0]


def test_download_of_something_else_is_refused_and_not_kept(tmp_path, monkeypatch):
    fake_pip(monkeypatch, b"something else")
    with pytest.raises(UnsafeError):
        sdist.fetch(pin.pin(), tmp_path / "cache")
    assert not list(tmp_path.iterdir())


def test_unreachable_index_says_so(monkeypatch, tmp_path):
    def fail(*_, **__):
        raise LlamaCppError("python ended with status 1: WARNING: ProxyError('no proxy') | ERROR: No match")

    monkeypatch.setattr(packages.run, "run", fail)
    with pytest.raises(LlamaCppError, match=r"index cannot be reached \(No match\)") as caught:
        sdist.fetch(pin.pin(), tmp_path)
    assert "--sdist" in (caught.value.hint or "")
