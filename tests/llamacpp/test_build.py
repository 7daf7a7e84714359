"""What is run to build llama.cpp, when two builds are the same, and how failures are told."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from ggufkit.errors import LlamaCppError, MissingDependencyError
from ggufkit.llamacpp import build, find, packages
from ggufkit.llamacpp.build import BuildOptions, Compiler
from ggufkit.llamacpp.pin import Pin

PIN = Pin(
    package="llama-cpp-python",
    version="1.2.3",
    sha256="0" * 64,
    commit="abcdef0",
    folder="vendor/llama.cpp",
    cmake="3.14",
    tools=("llama-quantize", "llama-bench"),
    libraries=("ggml-base", "llama"),
)


def configure(**options):
    return build.configure_argv(*map(type(PATH), ("cmake", "ninja", "src", "out")), PIN, BuildOptions(**options))


PATH = find.cache_folder()


def test_configure_makes_relocatable_shared_libraries_with_the_pinned_commit():
    argv = configure()
    assert argv[:7] == ["cmake", "-S", "src", "-B", "out", "-G", "Ninja"]
    assert {"-DBUILD_SHARED_LIBS=ON", "-DCMAKE_BUILD_WITH_INSTALL_RPATH=ON"} <= set(argv)
    assert "-DLLAMA_BUILD_COMMIT=abcdef0" in argv
    rpath = next(word for word in argv if word.startswith("-DCMAKE_INSTALL_RPATH="))
    assert "/../lib" in rpath


def test_nothing_of_this_machine_gets_in_by_itself():
    assert {"-DLLAMA_OPENSSL=OFF", "-DLLAMA_USE_PREBUILT_UI=OFF", "-DGIT_EXE="} <= set(configure())


def test_backends_become_definitions_and_own_arguments_come_last():
    argv = configure(backends=("vulkan", "cuda"), cmake_args=("-DGGML_RPC=OFF",))
    assert argv[-3:] == ["-DGGML_CUDA=ON", "-DGGML_VULKAN=ON", "-DGGML_RPC=OFF"]


def test_only_what_is_pinned_is_compiled():
    argv = build.compile_argv(PATH / "ninja", PATH, PIN, 3)
    assert argv[3:] == ["-j", "3", "llama-quantize", "llama-bench", "ggml-base", "llama"]


def test_cache_key_tells_apart_whatever_changes_the_result():
    def key(options=BuildOptions(), machine="cpu A", compiler="gcc 12", **changes):  # noqa: B008 - frozen
        fields = {name: getattr(PIN, name) for name in Pin.__slots__}
        return build.cache_key(Pin(**{**fields, **changes}), options, machine, compiler)

    keys = [
        key(),
        key(machine="cpu B"),
        key(compiler="gcc 13"),
        key(BuildOptions(backends=("cuda",))),
        key(BuildOptions(cmake_args=("-DX=1",))),
        key(version="1.2.4"),
        key(sha256="1" * 64),
        key(tools=("llama-quantize",)),
    ]
    assert len(set(keys)) == len(keys)
    assert key() == keys[0]
    assert key(BuildOptions(jobs=7)) == keys[0]
    assert key(BuildOptions(backends=("cuda", "blas"))) == key(BuildOptions(backends=("blas", "cuda")))


@pytest.mark.parametrize(
    ("line", "step"),
    [
        ("[42/238] Building CXX object src/x.cpp.o", (42, 238)),
        ("[  1/ 9] Linking", None),
        ("ninja: no work to do.", None),
        ("note: [1/2] elsewhere", None),
    ],
)
def test_ninja_lines(line, step):
    assert build.parse_step(line) == step


def test_machine_identity_follows_the_cpu_flags(tmp_path):
    cpuinfo = tmp_path / "proc/cpuinfo"
    cpuinfo.parent.mkdir()
    cpuinfo.write_text("model name\t: CPU X\nflags\t\t: sse avx2\n")
    first = build.machine_identity(tmp_path)
    assert "CPU X" in first
    cpuinfo.write_text("model name\t: CPU X\nflags\t\t: sse avx2 avx512f\n")
    assert build.machine_identity(tmp_path) != first


def test_no_compiler_gives_the_command_that_installs_one(monkeypatch, tmp_path):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingDependencyError, match="no C\\+\\+ compiler") as caught:
        build.find_compiler()
    assert caught.value.hint


def test_compiler_that_is_too_old(tmp_path):
    old = fake(tmp_path / "c++", "echo \"unrecognized option '-std=c++17'\" >&2; exit 1")
    with pytest.raises(MissingDependencyError, match="cannot compile C\\+\\+17") as caught:
        build.check_compiler(Compiler((str(old),), "old c++ 4.8"))
    assert "GCC 9" in (caught.value.hint or "")


def test_chosen_backend_without_its_compiler(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingDependencyError, match="--vulkan needs the program glslc"):
        build.check_backends(BuildOptions(backends=("vulkan",)))


def fake(path, text):
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def tools(tmp_path, monkeypatch):
    """Stand-ins for cmake and ninja; the second 'builds' the programs and libraries of PIN in bin/."""
    fake(tmp_path / "cmake", 'echo "-- Configuring done"')
    fake(
        tmp_path / "ninja",
        """mkdir -p "$2/bin"; cd "$2/bin"; echo "[1/2] Building x"
        touch llama-quantize llama-bench libllama.so.0 unwanted.o; ln -sf libllama.so.0 libllama.so
        echo "[2/2] Linking y" """,
    )
    monkeypatch.setattr(packages, "install_program", lambda name, _: tmp_path / name)
    monkeypatch.setattr(build, "check_compiler", lambda _: None)
    return tmp_path


def compile_with(tools, target, **arguments):
    compiler = Compiler(("c++",), "c++ 12")
    log = tools / "build.log"
    build.compile_llama_cpp(PIN, tools / "source", target, BuildOptions(), compiler, log=log, **arguments)
    return log


def test_compile_leaves_programs_libraries_and_a_stamp(tools):
    seen = []
    target = tools / "built"
    log = compile_with(tools, target, progress=lambda *step: seen.append(step))
    assert sorted(path.name for path in (target / "bin").iterdir()) == ["llama-bench", "llama-quantize"]
    assert (target / "lib/libllama.so").is_symlink()
    assert not (target / "lib/unwanted.o").exists()
    stamp = find.read_stamp(target)
    assert (stamp["version"], stamp["commit"]) == ("1.2.3", "abcdef0")
    assert stamp["recipe"] == build.recipe(PIN, BuildOptions())
    assert ("Compiling", 2, 2, "steps") in seen
    assert "[1/2] Building x" in log.read_text()
    assert not list(tools.glob("*.build"))


def test_failed_compile_quotes_the_first_error_names_the_log_and_keeps_what_was_built(tools):
    fake(tools / "ninja", 'echo "[1/2] Building x"; echo "x.cpp:3:1: error: no such thing"; echo later; exit 1')
    with pytest.raises(LlamaCppError, match=r"x\.cpp:3:1: error: no such thing") as caught:
        compile_with(tools, tools / "built")
    assert str(tools / "build.log") in str(caught.value)
    assert not (tools / "built").exists()
    assert (tools / "built.build").is_dir()


def test_compiler_killed_for_memory_suggests_fewer_jobs(tools):
    fake(tools / "ninja", 'echo "c++: fatal error: Killed signal terminated program cc1plus"; exit 1')
    with pytest.raises(LlamaCppError) as caught:
        compile_with(tools, tools / "built")
    assert "--jobs 1" in (caught.value.hint or "")


@pytest.mark.fault
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process of its parent's death")
def test_sigkill_of_setup_ends_ninja_politely(tools):
    fake(tools / "ninja", f"trap 'touch {tools}/ended; exit 1' TERM; touch {tools}/began; while :; do sleep 0.02; done")
    code = f"""
from pathlib import Path
from ggufkit.llamacpp import build, packages
packages.install_program = lambda name, minimum: Path({str(tools)!r}) / name
build.check_compiler = lambda compiler: None
pin = build.Pin(**{json.dumps({name: getattr(PIN, name) for name in Pin.__slots__})})
here = Path({str(tools)!r})
build.compile_llama_cpp(pin, here / "source", here / "built", build.BuildOptions(), None, log=here / "log")
"""
    with subprocess.Popen([sys.executable, "-c", code]) as setup:
        wait_for(tools / "began")
        os.kill(setup.pid, signal.SIGKILL)
    wait_for(tools / "ended")
    assert not (tools / "built").exists()


def wait_for(path, seconds=20.0):
    end = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < end, f"{path} did not appear"
        time.sleep(0.01)
