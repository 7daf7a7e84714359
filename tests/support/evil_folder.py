"""A model folder in which everything that could be run, or lead elsewhere, tries to: whatever runs writes a marker."""

import json
import os
import pickle
import shutil
from pathlib import Path

import handmade_checkpoint
import lora_adapters

# Modules that our own programs import, or Python itself: in the current folder they must not be found first.
SHADOWS = (
    "numpy",
    "gguf",
    "torch",
    "transformers",
    "safetensors",
    "tokenizers",
    "llama_cpp",
    "ray",
    "jinja2",
    "sitecustomize",
    "usercustomize",
    "json",
    "ggufkit",
    "rich",
)
_AUTO_MAP = {
    "AutoConfig": "configuration_evil.EvilConfig",
    "AutoModel": "modeling_evil.EvilModel",
    "AutoModelForCausalLM": "modeling_evil.EvilModel",
    "AutoTokenizer": ["tokenization_evil.EvilTokenizer", "tokenization_evil.EvilTokenizer"],
    "AutoProcessor": "processing_evil.EvilProcessor",
}
_SCRIPTS = (
    "configuration_evil",
    "modeling_evil",
    "tokenization_evil",
    "processing_evil",
    "handler",
    "setup",
    "conftest",
)
# Each reaches for Python in its own way; a sandbox refuses them all.
TEMPLATE = (
    "{{ ''.__class__.__mro__[1].__subclasses__() }}{{ cycler.__init__.__globals__.os.system('touch MARKER') }}"
    "{{ self.__init__.__globals__ }}{{ ().__class__.__base__ }}"
)


class _Evil:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (os.system, (f"touch {self.marker}",))


def write(folder: Path, marker: Path, *, template: str = TEMPLATE, own_classes: bool = False) -> Path:
    """Write a folder whose weights and tokenizer are good, so that commands get far, and everything else is not.

    With `own_classes` config and tokenizer name no class but those of the folder's own code.
    """
    handmade_checkpoint.write(folder)
    code = f"open({str(marker)!r}, 'a').write(__name__ + chr(10))\n"
    for name in (*_SCRIPTS, *SHADOWS):
        (folder / f"{name}.py").write_text(code)
    for place in ("custom_generate", "gguf_py"):
        (folder / place).mkdir()
        (folder / place / "generate.py").write_text(code)
        (folder / place / "__init__.py").write_text(code)
    (folder / "evil.pth").write_text(f"import os; os.system('touch {marker}')\n")
    trusted = {"auto_map": _AUTO_MAP, "trust_remote_code": True, "custom_pipelines": {"x": {"impl": "handler.Evil"}}}
    config = json.loads((folder / "config.json").read_text())
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text())
    named = {"architectures": ["EvilModel"], "model_type": "evil"} if own_classes else {}
    (folder / "config.json").write_text(json.dumps({**config, **trusted, **named}))
    told = {**tokenizer, **trusted, "chat_template": template.replace("MARKER", str(marker))}
    if own_classes:
        told["tokenizer_class"] = "EvilTokenizer"
    (folder / "tokenizer_config.json").write_text(json.dumps(told))
    for name in ("generation_config.json", "preprocessor_config.json", "processor_config.json"):
        (folder / name).write_text(json.dumps({**trusted, "custom_generate": "custom_generate"}))
    for name in ("training_args.bin", "optimizer.pt", "rng_state.pth", "pytorch_model.bin", "consolidated.00.pth"):
        (folder / name).write_bytes(pickle.dumps({"lm_head.weight": _Evil(marker)}))
    (folder / "README.md").write_text("---\nname: !!python/object/apply:os.system ['touch " + str(marker) + "']\n---\n")
    return folder


def pickled(folder: Path, marker: Path) -> Path:
    """Leave only the pickle for weights."""
    (write(folder, marker) / "model.safetensors").unlink()
    return folder


def leading_out(folder: Path, marker: Path, secret: Path) -> dict[str, Path]:
    """Write folders whose index, links, module paths or names lead to a file outside."""
    made: dict[str, Path] = {}

    def index(name: str, shard: str) -> None:
        made[name] = folder / name.replace(" ", "-")
        handmade_checkpoint.shard(made[name])
        path = made[name] / "model.safetensors.index.json"
        content = json.loads(path.read_text())
        content["weight_map"]["lm_head.weight"] = shard
        path.write_text(json.dumps(content))

    def link(name: str, file: str) -> None:
        made[name] = folder / name.replace(" ", "-")
        handmade_checkpoint.write(made[name])
        (made[name] / file).unlink(missing_ok=True)
        (made[name] / file).symlink_to(secret)

    index("a shard above", f"../{secret.name}")
    index("an absolute shard", str(secret))
    index("a shard of Windows", "C:\\secret.safetensors")
    index("a linked shard", "linked.safetensors")
    (made["a linked shard"] / "linked.safetensors").symlink_to(secret)
    for file in ("model.safetensors", "config.json", "tokenizer.json", "generation_config.json", "README.md"):
        link(f"linked {file}", file)
    made["modules above"] = folder / "modules-above"
    handmade_checkpoint.write(made["modules above"])
    pooling = {"type": "sentence_transformers.models.Pooling", "path": f"../{secret.name}"}
    (made["modules above"] / "modules.json").write_text(json.dumps([pooling]))
    return made


def adapter(base: Path, folder: Path, marker: Path) -> Path:
    """Write a LoRA adapter that brings code of its own."""
    lora_adapters.write(base, folder)
    (folder / "adapter_model.bin").write_bytes(pickle.dumps({"a": _Evil(marker)}))
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "auto_mapping": {"base_model_class": "EvilModel"}}))
    shutil.copy(base / "modeling_evil.py", folder)
    return folder
