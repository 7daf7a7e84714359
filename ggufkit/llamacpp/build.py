"""Compiling the pinned llama.cpp: pure functions for what is run, and `compile_llama_cpp`, which runs it resumably."""

import contextlib
import hashlib
import json
import os
import platform
import re
import shlex
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from ggufkit.errors import LlamaCppError, MissingDependencyError
from ggufkit.llamacpp import cpu, find, packages, run, trees
from ggufkit.llamacpp.pin import Pin
from ggufkit.progress import Progress, silent

# What a person asks for -> the CMake definitions that llama.cpp knows it by.
BACKENDS: dict[str, tuple[str, ...]] = {
    "cuda": ("-DGGML_CUDA=ON",),
    "vulkan": ("-DGGML_VULKAN=ON",),
    "metal": ("-DGGML_METAL=ON",),
    "rocm": ("-DGGML_HIP=ON",),
    "blas": ("-DGGML_BLAS=ON", "-DGGML_BLAS_VENDOR=OpenBLAS"),
}
_NEEDED_PROGRAM = {
    "cuda": ("nvcc", "install NVIDIA's CUDA toolkit, or put its bin folder on the PATH"),
    "vulkan": ("glslc", "apt-get install libvulkan-dev glslc   (or your system's names for them)"),
    "rocm": ("hipconfig", "install AMD's ROCm, or put its bin folder on the PATH"),
}
_STEP = re.compile(r"\[\s*(\d+)/(\d+)\]")
_COMPLAINT = re.compile(r"(?:^|\s)(?:fatal )?error:|^CMake Error|undefined reference")
_QUOTED_LINES = 3
_BYTES_PER_JOB = 1 << 30  # a C++ compiler at work on llama.cpp takes most of a gigabyte
_TRY_CXX17 = """\
#include <charconv>
#include <filesystem>
#include <optional>
int main() { std::optional<int> found; return found.has_value() || !std::filesystem::exists("/"); }
"""


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """What may be chosen about a build; the default is a build for this machine's CPU (and Apple's Metal)."""

    backends: tuple[str, ...] = ()
    cmake_args: tuple[str, ...] = ()
    jobs: int | None = None

    def definitions(self) -> tuple[str, ...]:
        """Return the CMake arguments that these options stand for."""
        return (*(word for name in sorted(set(self.backends)) for word in BACKENDS[name]), *self.cmake_args)


@dataclass(frozen=True, slots=True)
class Compiler:
    """The C++ compiler that CMake will take, and what it says about itself."""

    command: tuple[str, ...]
    identity: str


def configure_argv(cmake: Path, ninja: Path, source: Path, build: Path, pin: Pin, options: BuildOptions) -> list[str]:
    """Return the command that configures a build. The caller's own CMake arguments come last, so they win."""
    here = "@loader_path" if sys.platform == "darwin" else "$ORIGIN"
    definitions = {
        "CMAKE_MAKE_PROGRAM": str(ninja),
        "CMAKE_BUILD_TYPE": "Release",
        "BUILD_SHARED_LIBS": "ON",
        # Programs and libraries find each other from their own place, so that the result can be moved.
        "CMAKE_INSTALL_RPATH": f"{here}/../lib;{here}",
        "CMAKE_BUILD_WITH_INSTALL_RPATH": "ON",
        "GGML_RPC": "ON",
        # No HTTPS in the tools: ggufkit downloads by itself, and a build must not depend on what this machine has.
        "LLAMA_OPENSSL": "OFF",
        "LLAMA_BUILD_TESTS": "OFF",
        "LLAMA_BUILD_EXAMPLES": "OFF",
        "LLAMA_BUILD_APP": "OFF",
        # The server's web page would be downloaded, or built with npm.
        "LLAMA_BUILD_UI": "OFF",
        "LLAMA_USE_PREBUILT_UI": "OFF",
        # Else CMake asks git, which would answer with the commit of whatever repository lies around the source.
        "GIT_EXE": "",
        "LLAMA_BUILD_COMMIT": pin.commit,
        "LLAMA_BUILD_NUMBER": "0",
    }
    words = [f"-D{name}={value}" for name, value in definitions.items()]
    return [str(cmake), "-S", str(source), "-B", str(build), "-G", "Ninja", *words, *options.definitions()]


def compile_argv(ninja: Path, build: Path, pin: Pin, jobs: int) -> list[str]:
    """Return the command that compiles what is wanted, and nothing else."""
    return [str(ninja), "-C", str(build), "-j", str(jobs), *pin.tools, *pin.libraries]


def recipe(pin: Pin, options: BuildOptions) -> str:
    """Return a digest of everything that we decide about a build, wherever it is made."""
    here = Path()
    commands = (configure_argv(here, here, here, here, pin, options), compile_argv(here, here, pin, jobs=1))
    return _digest(json.dumps([pin.version, pin.sha256, *commands]))


def cache_key(pin: Pin, options: BuildOptions, machine: str, compiler: str) -> str:
    """Return the name of a build: two builds with the same key are interchangeable."""
    return f"build-{_digest(json.dumps([recipe(pin, options), machine, compiler]))}"


def parse_step(line: str) -> tuple[int, int] | None:
    """Read `[ 42/238] Building …` as (42, 238)."""
    found = _STEP.match(line)
    return (int(found[1]), int(found[2])) if found else None


def machine_identity(root: Path = Path("/")) -> str:
    """Describe the machine that the compiler's `-march=native` will see, in one line."""
    words = [platform.system(), platform.machine()]
    with contextlib.suppress(OSError):
        text = (root / "proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
        facts = dict(re.findall(r"^(model name|CPU part|flags|Features)[ \t]*:[ \t]*(.*)$", text, re.MULTILINE))
        words += [_digest(facts[name]) if name in {"flags", "Features"} else facts[name] for name in sorted(facts)]
    if sys.platform == "darwin":
        with contextlib.suppress(LlamaCppError, MissingDependencyError):
            words.append(run.run(["sysctl", "-n", "machdep.cpu.brand_string"]).stdout.strip())
    return " ".join(words)


def find_compiler() -> Compiler:
    """Find the C++ compiler that CMake would take.

    Raises:
        MissingDependencyError: there is none, or it does not run.
    """
    named = os.environ.get("CXX")
    candidates = [shlex.split(named)] if named else [["c++"], ["g++"], ["clang++"]]
    for command in candidates:
        if command and shutil.which(command[0]):
            try:
                text = run.run([*command, "--version"]).stdout
            except LlamaCppError as error:
                raise MissingDependencyError(f"the C++ compiler does not run: {error}", hint=_install_hint()) from error
            return Compiler(tuple(command), text.partition("\n")[0].strip())
    lacking = f"$CXX names {named}, which is not there" if named else "no C++ compiler is installed"
    raise MissingDependencyError(f"{lacking}; llama.cpp must be compiled once", hint=_install_hint())


def check_compiler(compiler: Compiler) -> None:
    """Compile and link a small C++17 program.

    Raises:
        MissingDependencyError: the compiler cannot; it is too old, or its libraries are missing.
    """
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "try.cpp"
        source.write_text(_TRY_CXX17)
        try:
            run.run([*compiler.command, "-std=c++17", source, "-o", Path(folder) / "try"])
        except LlamaCppError as error:
            raise MissingDependencyError(
                f"{compiler.identity} cannot compile C++17, which llama.cpp is written in: {error}",
                hint=f"{_install_hint()}   (GCC 9, Clang 10 or newer; CXX=… chooses another one)",
            ) from error


def check_backends(options: BuildOptions) -> None:
    """Look for the compiler that each chosen backend needs, before minutes are spent.

    Raises:
        MissingDependencyError: naming the first that is not there.
    """
    for name in options.backends:
        program, advice = _NEEDED_PROGRAM.get(name, ("", ""))
        given = name == "cuda" and ("CUDACXX" in os.environ or Path("/usr/local/cuda/bin/nvcc").exists())
        if program and not given and not shutil.which(program):
            raise MissingDependencyError(f"--{name} needs the program {program}, which is not on the PATH", hint=advice)


def default_jobs() -> int:
    """Return how many compilers to run at once: as many as CPUs and memory allow."""
    quota = cpu.cgroup_quota() or float("inf")
    return max(1, int(min(len(cpu.allowed_cpus()), quota, cpu.available_memory() // _BYTES_PER_JOB)))


def compile_llama_cpp(
    pin: Pin,
    source: Path,
    target: Path,
    options: BuildOptions,
    compiler: Compiler,
    *,
    log: Path,
    pass_fds: tuple[int, ...] = (),
    progress: Progress = silent,
) -> None:
    """Compile `source` and leave the result as `target` with `bin/`, `lib/` and a stamp; it appears only when whole.

    A build that was killed goes on where it stopped. Everything that CMake and ninja say goes to `log`.

    Raises:
        MissingDependencyError: a compiler or build tool is missing.
        LlamaCppError: the build failed; the message holds the first error and the log's name.
    """
    check_compiler(compiler)
    check_backends(options)
    progress("Configuring", 0, 1, "steps")
    cmake = packages.install_program("cmake", tuple(int(part) for part in pin.cmake.split(".")))
    ninja = packages.install_program("ninja", (1, 10))
    build = target.with_name(f"{target.name}.build")
    build.mkdir(parents=True, exist_ok=True)
    log.parent.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    with log.open("a", encoding="utf-8", buffering=1) as file:
        _logged(configure_argv(cmake, ninja, source, build, pin, options), file, pass_fds, None)
        argv = compile_argv(ninja, build, pin, options.jobs or default_jobs())
        _logged(argv, file, pass_fds, progress)
    stamp = {
        "version": pin.version,
        "commit": pin.commit,
        "definitions": list(options.definitions()),
        "backends": sorted(set(options.backends)),
        "machine": machine_identity(),
        "compiler": compiler.identity,
        "recipe": recipe(pin, options),
        "seconds": round(time.monotonic() - started, 1),
    }
    _collect(build / "bin", target, pin, stamp)
    shutil.rmtree(build, ignore_errors=True)


def _logged(argv: list[str], file: TextIO, pass_fds: tuple[int, ...], progress: Progress | None) -> None:
    complaint: list[str] = []

    def on_line(line: str) -> None:
        print(line, file=file)
        if progress and (step := parse_step(line)):
            progress("Compiling", *step, "steps")
        elif _COMPLAINT.search(line) if not complaint else len(complaint) < _QUOTED_LINES:
            complaint.append(line.strip())

    print(f"$ {shlex.join(argv)}", file=file, flush=True)
    try:
        # ninja answers SIGTERM by ending its compilers and removing what they had half written; SIGKILL would not.
        run.run(argv, on_line=on_line, death_signal=signal.SIGTERM, pass_fds=pass_fds)
    except LlamaCppError as error:
        reason = " ".join(complaint) or str(error)
        hint = f"tail -n 40 {shlex.quote(file.name)}   (a new `ggufkit setup` goes on where this one stopped)"
        if "Killed" in reason:
            hint = "ggufkit setup --jobs 1   (the compiler was killed, most likely for want of memory)"
        raise LlamaCppError(f"building llama.cpp failed: {reason} (whole log: {file.name})", hint=hint) from error


def _collect(built: Path, target: Path, pin: Pin, stamp: dict[str, Any]) -> None:
    """Copy the programs and libraries out of the build folder; the stamp is written last."""
    with trees.whole_folder(target) as folder:
        for name in ("bin", "lib"):
            (folder / name).mkdir()
        for name in pin.tools:
            shutil.copy2(built / name, folder / "bin" / name)
        # libllama.so, libllama.so.0 …, with their links among each other
        libraries = re.compile(r"lib.+(\.so(\.\d+)*|\.dylib)|.+\.metal(lib)?")
        for path in sorted(built.iterdir()):
            if libraries.fullmatch(path.name):
                shutil.copy2(path, folder / "lib" / path.name, follow_symlinks=False)
        (folder / find.STAMP).write_text(json.dumps(stamp, indent=2) + "\n", encoding="utf-8")


def _install_hint() -> str:
    if sys.platform == "darwin":
        return "xcode-select --install"
    commands: dict[str, str] = {
        "apt-get": "apt-get install g++",
        "dnf": "dnf install gcc-c++",
        "pacman": "pacman -S gcc",
        "zypper": "zypper install gcc-c++",
        "apk": "apk add g++",
    }
    prefix = "" if os.geteuid() == 0 else "sudo "
    return prefix + next((text for name, text in commands.items() if shutil.which(name)), "apt-get install g++")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]
