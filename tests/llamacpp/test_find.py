"""The build is looked for in three places, in order, and never half of one is taken."""

import json

import pytest

from ggufkit.errors import MissingDependencyError
from ggufkit.llamacpp import find, pin

LIBRARY = f"libllama{find.LIBRARY_SUFFIX}"


def make_build(root, *, version=None, binaries="bin", libraries="lib", stamp=True):
    for folder in (root / binaries, root / libraries):
        folder.mkdir(parents=True, exist_ok=True)
    tool = root / binaries / "llama-quantize"
    tool.write_text("#!/bin/sh\n")
    tool.chmod(0o755)
    (root / libraries / LIBRARY).touch()
    if stamp:
        (root / find.STAMP).write_text(json.dumps({"version": version or pin.pin().version}))
    return root


@pytest.fixture
def places(tmp_path, monkeypatch):
    """A checkout and a home of our own, both empty."""
    checkout, data = tmp_path / "checkout", tmp_path / "data"
    monkeypatch.delenv(find.VARIABLE, raising=False)
    pinned = pin.pin().version  # read while it is still found in the real checkout
    monkeypatch.setattr(pin, "checkout", lambda: checkout)
    monkeypatch.setenv("XDG_DATA_HOME", str(data))
    return checkout / "vendor/llama.cpp/dist", data / "ggufkit/llama.cpp" / pinned / "dist"


def test_nothing_there(places):
    with pytest.raises(MissingDependencyError) as caught:
        find.find()
    assert caught.value.hint == "ggufkit setup"


def test_checkout_comes_before_user_data(places):
    checkout, data = places
    make_build(data)
    assert find.find().origin is find.Origin.USER_DATA
    make_build(checkout)
    assert find.find().origin is find.Origin.CHECKOUT
    assert find.find().tool("llama-quantize") == checkout / "bin/llama-quantize"


def test_environment_comes_first(places, tmp_path, monkeypatch):
    make_build(places[0])
    monkeypatch.setenv(find.VARIABLE, str(make_build(tmp_path / "mine", stamp=False)))
    found = find.find()
    assert (found.origin, found.root) == (find.Origin.ENVIRONMENT, tmp_path / "mine")


@pytest.mark.parametrize(("binaries", "libraries"), [("bin", "lib"), ("bin", "bin"), (".", "."), ("bin", "lib64")])
def test_environment_may_name_any_usual_layout(places, tmp_path, monkeypatch, binaries, libraries):
    root = make_build(tmp_path / "mine", binaries=binaries, libraries=libraries, stamp=False)
    monkeypatch.setenv(find.VARIABLE, str(root))
    found = find.find()
    assert found.tool("llama-quantize").samefile(root / binaries / "llama-quantize")
    assert found.library("llama").samefile(root / libraries / LIBRARY)


def test_environment_that_names_no_build_is_an_error_even_if_there_is_another(places, tmp_path, monkeypatch):
    make_build(places[0])
    monkeypatch.setenv(find.VARIABLE, str(tmp_path))
    with pytest.raises(MissingDependencyError, match="llama-quantize"):
        find.find()


def test_folder_without_stamp_is_not_a_build(places):
    make_build(places[0], stamp=False)
    with pytest.raises(MissingDependencyError, match="not built"):
        find.find()


def test_build_of_another_version_is_named_and_not_taken(places):
    make_build(places[0], version="0.0.1")
    with pytest.raises(MissingDependencyError, match="not the pinned"):
        find.find()


def test_missing_tool_and_library_are_named(places):
    make_build(places[0])
    with pytest.raises(MissingDependencyError, match="llama-bench"):
        find.find().tool("llama-bench")
    with pytest.raises(MissingDependencyError, match="ggml-base"):
        find.find().library("ggml-base")


def test_source_tree_beside_the_build(places, tmp_path, monkeypatch):
    with pytest.raises(MissingDependencyError):
        find.find_source()
    source = places[0].parent / "source"
    source.mkdir(parents=True)
    (source / find.STAMP).write_text('{"version": "0.0.1"}')
    with pytest.raises(MissingDependencyError):
        find.find_source()
    (source / find.STAMP).write_text(json.dumps({"version": pin.pin().version}))
    assert find.find_source() == source
    own = tmp_path / "own" / "source"
    own.mkdir(parents=True)
    (own / "convert_hf_to_gguf.py").touch()
    monkeypatch.setenv(find.VARIABLE, str(own.parent / "dist"))
    assert find.find_source() == own


def test_relative_xdg_folders_are_ignored(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("GGUFKIT_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert find.cache_folder() == tmp_path / ".cache/ggufkit"
