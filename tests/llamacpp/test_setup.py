"""Set-up does each step once, skips what is there, and takes finished work from the cache."""

import json
import threading
import time
from pathlib import Path

import pytest

from ggufkit.errors import LlamaCppError, MissingDependencyError, OutputError, UsageError
from ggufkit.llamacpp import binding, build, find, packages, pin, sdist, setup, trees
from ggufkit.llamacpp.build import BuildOptions, Compiler
from ggufkit.llamacpp.setup import SetupOptions, set_up

ALL_DONE = {"source": "done", "llama.cpp": "done", "binding": "done", "check": "done"}
ALL_THERE = {"source": "there", "llama.cpp": "there", "binding": "there"}


class World:
    """Everything outside set-up that takes long, replaced by something that only counts its calls."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.calls: list[str] = []
        self.bound: str | None = None
        self.machine = "cpu A"
        self.compiler = Compiler(("c++",), "c++ 12")

    def fetch(self, *_, **__):
        self.calls.append("fetch")
        return self.root / "x.tar.gz"

    def unpack(self, _file, _pin, target, **_):
        self.calls.append("unpack")
        with trees.whole_folder(target) as folder:
            (folder / "convert_hf_to_gguf.py").touch()

    def compile(self, pinned, _source, target, options, compiler, **_):
        self.calls.append("compile")
        stamp = {
            "version": pinned.version,
            "definitions": list(options.definitions()),
            "machine": self.machine,
            "compiler": compiler.identity,
            "recipe": build.recipe(pinned, options),
        }
        with trees.whole_folder(target) as folder:
            (folder / "bin").mkdir()
            (folder / "bin/llama-quantize").touch(0o755)
            (folder / find.STAMP).write_text(json.dumps(stamp))

    def pip(self, arguments, **_):
        self.calls.append(f"pip {arguments[0]}")
        if arguments[0] == "wheel":
            folder = Path(arguments[arguments.index("--wheel-dir") + 1])
            (folder / "llama_cpp_python-py3-none-any.whl").touch()
        else:
            self.bound = pin.pin().version


@pytest.fixture
def world(tmp_path, monkeypatch):
    world = World(tmp_path)
    home = tmp_path / "checkout"
    monkeypatch.delenv(find.VARIABLE, raising=False)
    monkeypatch.setenv("GGUFKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(find, "home", lambda: home)
    monkeypatch.setattr(sdist, "fetch", world.fetch)
    monkeypatch.setattr(sdist, "unpack", world.unpack)
    monkeypatch.setattr(build, "compile_llama_cpp", world.compile)
    monkeypatch.setattr(build, "find_compiler", lambda: world.compiler)
    monkeypatch.setattr(build, "machine_identity", lambda: world.machine)
    monkeypatch.setattr(packages, "pip", world.pip)
    monkeypatch.setattr(packages, "is_externally_managed", lambda: False)
    monkeypatch.setattr(binding, "installed_version", lambda: world.bound)
    monkeypatch.setattr(setup._SetUp, "_check", lambda _: "fine")
    return world


def states(result):
    return {step.name: step.state for step in result.steps}


def test_first_run_does_everything_and_the_second_nothing(world):
    assert states(set_up()) == ALL_DONE
    assert world.calls == ["fetch", "unpack", "compile", "fetch", "pip wheel", "pip install"]
    world.calls.clear()
    assert states(set_up()) == ALL_THERE
    assert world.calls == []


def test_another_checkout_takes_everything_from_the_cache(world, monkeypatch):
    set_up()
    world.calls.clear()
    world.bound = None
    second = world.root / "second"
    monkeypatch.setattr(find, "home", lambda: second)
    assert states(set_up()) == ALL_DONE
    assert world.calls == ["pip install"]
    assert (second / "dist/bin/llama-quantize").samefile(world.root / "checkout/dist/bin/llama-quantize")


def test_dry_run_touches_nothing(world):
    result = set_up(SetupOptions(dry_run=True))
    assert states(result) == dict.fromkeys(("source", "llama.cpp", "binding"), "needed")
    assert (world.calls, list(world.root.iterdir())) == ([], [])


def test_other_options_build_again_and_plain_setup_keeps_them(world):
    set_up()
    cuda = SetupOptions(build=BuildOptions(backends=("blas",)))
    assert states(set_up(cuda))["llama.cpp"] == "done"
    assert find.read_stamp(world.root / "checkout/dist")["definitions"][0] == "-DGGML_BLAS=ON"
    world.calls.clear()
    assert states(set_up()) == states(set_up(cuda)) == ALL_THERE
    assert world.calls == []


def test_another_cpu_needs_another_build(world):
    set_up()
    world.machine = "cpu B"
    assert states(set_up())["llama.cpp"] == "done"
    world.machine = "cpu A"
    world.calls.clear()
    assert states(set_up())["llama.cpp"] == "done"
    assert world.calls == []  # the first build was still in the cache


def test_a_removed_compiler_does_not_matter_once_it_is_built(world, monkeypatch):
    def none():
        raise MissingDependencyError("no C++ compiler is installed")

    set_up()
    monkeypatch.setattr(build, "find_compiler", none)
    assert states(set_up()) == ALL_THERE


def test_no_compiler_is_said_before_anything_is_fetched(world, monkeypatch):
    def none():
        raise MissingDependencyError("no C++ compiler is installed")

    monkeypatch.setattr(build, "find_compiler", none)
    with pytest.raises(MissingDependencyError):
        set_up()
    assert world.calls == []


def test_force_compiles_although_it_is_there(world):
    set_up()
    world.calls.clear()
    set_up(SetupOptions(force=True))
    assert "compile" in world.calls


def test_failed_compile_leaves_no_dist_and_the_next_run_goes_on(world, monkeypatch):
    def fail(*_, **__):
        raise LlamaCppError("building llama.cpp failed")

    with monkeypatch.context() as patched:
        patched.setattr(build, "compile_llama_cpp", fail)
        with pytest.raises(LlamaCppError):
            set_up()
    assert not (world.root / "checkout/dist").exists()
    assert states(set_up())["source"] == "there"


def test_small_disk_is_refused_before_anything_is_fetched(world, monkeypatch):
    monkeypatch.setattr(trees.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    with pytest.raises(OutputError, match="1,000 free"):
        set_up()
    assert world.calls == []


def test_own_build_is_used_and_only_the_rest_is_set_up(world, monkeypatch):
    own = world.root / "own"
    own.mkdir()
    (own / "llama-quantize").touch(0o755)
    (own / f"libllama{find.LIBRARY_SUFFIX}").touch()
    monkeypatch.setenv(find.VARIABLE, str(own))
    assert states(set_up()) == {**ALL_DONE, "llama.cpp": "there"}
    with pytest.raises(UsageError, match="nothing would be built"):
        set_up(SetupOptions(build=BuildOptions(backends=("cuda",))))


def test_python_of_the_operating_system_is_left_alone(world, monkeypatch):
    monkeypatch.setattr(packages, "is_externally_managed", lambda: True)
    with pytest.raises(MissingDependencyError, match="operating system") as caught:
        set_up()
    assert "venv" in (caught.value.hint or "")
    assert (world.root / "checkout/dist").is_dir()  # what does not touch Python is done


def test_two_at_once_wait_for_each_other_and_compile_once(world, monkeypatch):
    slow = world.compile

    def compile_slowly(*arguments, **options):
        time.sleep(0.2)
        slow(*arguments, **options)

    monkeypatch.setattr(build, "compile_llama_cpp", compile_slowly)
    results = []
    threads = [threading.Thread(target=lambda: results.append(states(set_up()))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert world.calls.count("compile") == 1
    assert sorted(result["llama.cpp"] for result in results) == ["done", "there"]


def test_clean_removes_build_and_cache(world):
    set_up()
    folders, size = setup.clean(dry_run=True)
    assert (world.root / "checkout/dist").exists()
    assert (world.root / "cache/llama.cpp") in folders
    assert size > 0
    setup.clean()
    assert not any(folder.exists() for folder in folders)
