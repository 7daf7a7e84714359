"""The commands that write, each small enough to be killed hundreds of times, and what must be true afterwards."""

import functools
import hashlib
import json
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import handmade_checkpoint
import lora_adapters
import ollama_by_hand
import tiny_gguf
import tiny_model

import ggufkit
from ggufkit.conversion import OutputType
from ggufkit.conversion.adapters import convert_lora
from ggufkit.llamacpp.find import find

State = Mapping[str, str]
"""What stands under the visible names of a folder: path -> what its content amounts to."""


@dataclass(frozen=True)
class Job:
    """A command that writes into a folder `out`, in which it runs.

    Attributes:
        name: for people.
        arguments: what follows `ggufkit`; `{inputs}` is where `make_inputs` wrote.
        old: the outputs' names, and the files of the inputs that lie there before.
        meaning: what of a file's content is the same at every run; of all that is not listed here the hash.
        parts: whether the visible files are one model, whole or absent.
        store: the folder in `out` that is a store of Ollama's.
        code: the exit code of a run without faults.
        once: whether it refuses to replace what it made.
    """

    name: str
    arguments: Sequence[str]
    old: Mapping[str, str]
    meaning: Callable[[bytes], str] = lambda content: hashlib.sha256(content).hexdigest()
    parts: bool = False
    store: str = ""
    code: int = 0
    once: bool = False

    def argv(self, inputs: Path) -> list[str]:
        return [word.replace("{inputs}", str(inputs)) for word in self.arguments]

    def prepare(self, inputs: Path, out: Path) -> None:
        """Lay out what was there before."""
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        for name, source in self.old.items():
            target = out / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if (inputs / source).is_dir():
                shutil.copytree(inputs / source, target)
            else:
                shutil.copyfile(inputs / source, target)

    def state(self, out: Path) -> State:
        """Look what stands under final names."""
        return {
            name: self.meaning(path.read_bytes())
            for name, path in _files(out).items()
            if not any(part.startswith(".") for part in path.relative_to(out).parts)
        }

    def problems(self, out: Path, old: State, new: State) -> list[str]:
        """Say what is wrong after a fault: a file that is neither old nor new, an old one lost, a mixture."""
        found = self.state(out)
        if self.store:
            return self._store_problems(out, found, old, new)
        wrong = [
            f"{name} is neither old nor new" for name in found if found[name] not in {old.get(name), new.get(name)}
        ]
        if self.parts:
            first = min(new)
            if first in found and any(found != state for state in (old, new)) and found[first] == new[first]:
                wrong += [f"{name} is not of the new model" for name in new if found.get(name) != new[name]]
            return wrong
        return wrong + [f"{name} is lost" for name in old if name not in found]

    def _store_problems(self, out: Path, found: State, old: State, new: State) -> list[str]:
        wrong = ollama_by_hand.problems(out / self.store)
        manifests = {name for name in {*found, *old, *new} if "/manifests/" in name}
        for name in manifests:
            if found.get(name) not in {old.get(name), new.get(name)}:
                wrong.append(f"{name} is neither old nor new")
        return wrong

    def leftovers(self, out: Path, clean: set[str]) -> list[str]:
        """List the files that a run without faults would not leave."""
        return sorted(set(_files(out)) - clean)


def _files(folder: Path) -> dict[str, Path]:
    return {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}


def names(folder: Path) -> set[str]:
    """List all files, hidden ones too."""
    return set(_files(folder))


def _json_keys(content: bytes) -> str:
    """Of a result whose figures are times: that it is whole, and of what kind."""
    return " ".join(sorted(json.loads(content)))


def _answers(content: bytes) -> str:
    """Of a batch's answers: which prompts have one."""
    return " ".join(str(json.loads(line)["id"]) for line in content.splitlines())


def _page(content: bytes) -> str:
    return "a whole page" if content.rstrip().endswith(b"</html>") else "half a page"


def _of_gguf(content: bytes) -> str:
    """Of an importance matrix: its size, for sums depend on how the work was divided."""
    return f"{content[:4]!r} {len(content)}"


FAST = [
    Job("convert", ["convert", "{inputs}/checkpoint", "-o", "m.gguf"], {"m.gguf": "old.gguf"}),
    Job("quantize", ["quantize", "Q4_K_M", "{inputs}/wide-F16.gguf", "-o", "m.gguf"], {"m.gguf": "old.gguf"}),
    Job(
        "export ollama",
        ["export", "ollama", "{inputs}/model-F16.gguf", "m", "--store", "store", "--copy"],
        {"store": "store"},
        store="store",
    ),
    Job("one pass", ["quantize", "Q8_0", "{inputs}/checkpoint", "-o", "m.gguf"], {"m.gguf": "old.gguf"}),
    Job(
        "two types",
        ["quantize", "Q8_0,Q5_0", "{inputs}/model-F16.gguf", "-o", "./"],
        {"model-Q8_0.gguf": "old.gguf", "model-Q5_0.gguf": "old.gguf"},
    ),
    Job(
        "direct",
        ["quantize", "Q4_K_M", "{inputs}/wide-F16.gguf", "-o", "m.gguf", "--engine", "direct"],
        {"m.gguf": "old.gguf"},
    ),
    Job(
        "parts",
        ["quantize", "Q8_0", "{inputs}/part-F16-00001-of-00003.gguf", "-o", "part-Q8_0.gguf", "--keep-split"],
        {f"part-Q8_0-0000{part}-of-00003.gguf": f"old-Q8_0-0000{part}-of-00003.gguf" for part in (1, 2, 3)},
        parts=True,
    ),
    Job(
        "edit", ["edit", "{inputs}/model-F16.gguf", "-o", "m.gguf", "--set", "general.name=new"], {"m.gguf": "old.gguf"}
    ),
    Job(
        "convert-lora",
        ["convert-lora", "{inputs}/adapter", "--base", "{inputs}/checkpoint", "-o", "a.gguf"],
        {"a.gguf": "old.gguf"},
    ),
    Job(
        "merge-lora",
        ["merge-lora", "{inputs}/model-F32.gguf", "{inputs}/adapter.gguf", "-o", "m.gguf"],
        {"m.gguf": "old.gguf"},
    ),
    Job(
        "merge-lora of a folder",
        ["merge-lora", "{inputs}/checkpoint", "{inputs}/adapter", "-o", "merged"],
        {},
        once=True,
    ),
    Job("vocabulary", ["convert", "{inputs}/checkpoint", "--vocab-only", "-o", "v.gguf"], {"v.gguf": "old.gguf"}),
    Job(
        "export lmstudio",
        ["export", "lmstudio", "{inputs}/model-F16.gguf", "me/m", "--folder", "studio", "--copy", "--overwrite"],
        {"studio/me/m/model-F16.gguf": "old.gguf"},
    ),
    Job(
        "Modelfile",
        ["export", "ollama", "{inputs}/model-F16.gguf", "--modelfile", "Modelfile"],
        {"Modelfile": "text.txt"},
    ),
    Job("report", ["report", "{inputs}/run.json", "-o", "run.html"], {"run.html": "page.html"}, meaning=_page),
]
ENGINES = [
    Job(
        "imatrix",
        ["imatrix", "{inputs}/tiny.gguf", "-f", "{inputs}/text.txt", "-c", "64", "-o", "i.gguf"],
        {"i.gguf": "old.gguf"},
        meaning=_of_gguf,
    ),
    Job(
        "batch",
        [
            *("generate", "{inputs}/tiny.gguf", "--batch", "{inputs}/prompts.jsonl", "-o", "a.jsonl", "-n", "3"),
            *("--temp", "0", "--profile", "none"),
        ],
        {},
        meaning=_answers,
    ),
    Job(
        "eval",
        [
            *("eval", "{inputs}/tiny.gguf", "{inputs}/tiny-old.gguf", "-f", "{inputs}/text.txt", "-c", "64"),
            *("--chunks", "2", "-o", "run.json"),
        ],
        {"run.json": "run.json"},
        meaning=_json_keys,
    ),
]


def make_inputs(folder: Path, run: Callable[[Sequence[str], Path], None]) -> Path:
    """Write all that the jobs read; `run` runs `ggufkit` with arguments in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = handmade_checkpoint.write(folder / "checkpoint")
    (folder / "old.gguf").write_bytes(b"what was there before" * 500)
    ggufkit.convert(checkpoint, folder / "model-F16.gguf")
    ggufkit.convert(checkpoint, folder / "model-F32.gguf", outtype=OutputType.F32)
    tiny_gguf.write_model(folder / "wide-F16.gguf")
    lora_adapters.write(checkpoint, folder / "adapter")
    convert_lora(folder / "adapter", checkpoint, folder / "adapter.gguf")
    tiny_model.write(folder / "tiny.gguf")
    tiny_model.write(folder / "tiny-old.gguf", seed=2)
    (folder / "text.txt").write_text("hello the world, in the end im hello. " * 100)
    (folder / "page.html").write_text("<html></html>")
    lines = [{"id": number, "prompt": f"hello {number}"} for number in range(4)]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    split = functools.partial(subprocess.run, check=True, capture_output=True)
    tool = find().tool("llama-gguf-split")
    split([tool, "--split-max-tensors", "8", folder / "wide-F16.gguf", folder / "part-F16"])
    split([tool, "--split-max-tensors", "8", folder / "wide-F16.gguf", folder / "old-Q8_0"])
    for name, seed in (("old", 3), ("m", 2)):
        model = tiny_model.write(folder / f"store-{name}.gguf", seed=seed)
        run(["export", "ollama", str(model), name, "--store", str(folder / "store"), "--copy"], folder)
    return folder


def make_result(folder: Path, run: Callable[[Sequence[str], Path], None]) -> None:
    """Write the result of an evaluation among the inputs, which some jobs read: it takes longer than all others."""
    if not (folder / "run.json").exists():
        text = ["-f", str(folder / "text.txt"), "-c", "64", "--chunks", "2", "-o", str(folder / "run.json")]
        run(["eval", str(folder / "tiny.gguf"), str(folder / "tiny-old.gguf"), *text], folder)
