#!/usr/bin/env python3
"""Convert a checkpoint with llama.cpp's own converter: the oracle that ours is compared with.

Run as a child process by any Python that has torch and transformers:

    python tests/oracles/llama_cpp_convert.py SRC OUT [--outtype f16] [--pre NAME] [--vocab-only] [--raw-config]

The source tree of llama.cpp is --source, else $GGUFKIT_LLAMA_CPP_SOURCE, else vendor/llama.cpp/source of this checkout.

What is changed in upstream's behaviour, and why:

* --pre NAME: upstream recognises a pre-tokenizer by the hash of the ids that a fixed text gets, so every vocabulary
  that it has not seen is refused. A refused one gets NAME here; a recognised one keeps upstream's own answer.
* --no-vocab: tiny checkpoints of an architecture have no tokenizer, and need none to compare tensors.
* --raw-config: hyperparameters come from config.json as it is, not through transformers' AutoConfig, of which version
  5 renames and drops keys that upstream then misses.
* Baichuan: upstream's modify_tensors calls itself without end for every tensor but W_pack; those go to the base class.
"""

import argparse
import json
import logging
import os
import sys
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType

UPSTREAM = {}  # what is replaced below, so that each job starts from the original


def main(arguments: list[str] | None = None) -> None:
    options = parse_arguments(arguments)
    if options.jobs:
        for job in json.loads(options.jobs.read_text(encoding="utf-8")):
            run_job(job)
        return
    os.environ["HF_HUB_OFFLINE"] = "1"
    sys.path[:0] = [str(options.source), str(options.source / "gguf-py")]

    import conversion
    import gguf
    import torch

    logging.basicConfig(level=logging.INFO if options.verbose else logging.WARNING)
    load_hparams = UPSTREAM.setdefault("load_hparams", conversion.ModelBase.load_hparams)
    recognise = UPSTREAM.setdefault("get_vocab_base_pre", conversion.TextModel.get_vocab_base_pre)
    conversion.ModelBase.load_hparams = staticmethod(read_raw_config if options.raw_config else load_hparams)
    conversion.TextModel.get_vocab_base_pre = accepting_unknown(recognise, options.pre) if options.pre else recognise
    file_types = {
        "f32": gguf.LlamaFileType.ALL_F32,
        "f16": gguf.LlamaFileType.MOSTLY_F16,
        "bf16": gguf.LlamaFileType.MOSTLY_BF16,
        "q8_0": gguf.LlamaFileType.MOSTLY_Q8_0,
        "auto": gguf.LlamaFileType.GUESSED,
    }
    with torch.inference_mode():
        hyperparameters = conversion.ModelBase.load_hparams(options.checkpoint, False)
        architecture = conversion.get_model_architecture(hyperparameters, conversion.ModelType.TEXT)
        model_class = conversion.get_model_class(architecture)
        conversion.ModelBase.no_mtp = options.no_mtp
        set_vocab = UPSTREAM.setdefault(model_class, model_class.set_vocab)
        model_class.set_vocab = (lambda _: None) if options.no_vocab else set_vocab
        if model_class.__name__ == "BaichuanModel":
            model_class.modify_tensors = ending(UPSTREAM.setdefault("baichuan", model_class.modify_tensors), conversion)
        model = model_class(options.checkpoint, file_types[options.outtype], options.output)
        if options.vocab_only:
            model.write_vocab()
        else:
            model.write()


def ending(modify_tensors: Callable, conversion: ModuleType) -> Callable:
    def modify_tensors_once(self, data, name: str, block: int | None) -> Iterable:
        modify = modify_tensors if "W_pack" in name else conversion.ModelBase.modify_tensors
        return modify(self, data, name, block)

    return modify_tensors_once


def run_job(job: list[str]) -> None:
    try:
        main(job)
    except Exception:
        if "--keep-going" not in job:
            raise
        Path(f"{job[1]}.error").write_text(traceback.format_exc(limit=-4), encoding="utf-8")


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    checkout = Path(__file__).resolve().parents[2]
    source = os.environ.get("GGUFKIT_LLAMA_CPP_SOURCE") or checkout / "vendor" / "llama.cpp" / "source"
    parser = argparse.ArgumentParser(description="Convert a checkpoint with llama.cpp's own converter.")
    parser.add_argument("checkpoint", type=Path, nargs="?")
    parser.add_argument("output", type=Path, nargs="?")
    parser.add_argument("--outtype", choices=["f32", "f16", "bf16", "q8_0", "auto"], default="f16")
    parser.add_argument("--pre", help="pre-tokenizer name for a vocabulary that upstream does not recognise")
    parser.add_argument("--vocab-only", action="store_true", help="needs no weights in the checkpoint")
    parser.add_argument("--no-vocab", action="store_true", help="leave the tokenizer out")
    parser.add_argument("--no-mtp", action="store_true", help="leave multi-token prediction out")
    parser.add_argument("--keep-going", action="store_true", help="of --jobs: a failure goes to OUT.error")
    parser.add_argument("--raw-config", action="store_true", help="read config.json without transformers")
    parser.add_argument("--source", type=Path, default=Path(source), help="llama.cpp's source tree")
    parser.add_argument("--verbose", action="store_true")
    parser.add_argument("--jobs", type=Path, help="a JSON list of argument lists: many conversions in one process")
    return parser.parse_args(arguments)


def read_raw_config(folder: Path, is_mistral_format: bool = False) -> dict:
    config = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
    if "llm_config" in config:
        config["text_config"] = config["llm_config"]
    return config


def accepting_unknown(recognise: Callable[..., str], name: str) -> Callable[..., str]:
    def recognise_or_name(self, tokenizer) -> str:
        try:
            return recognise(self, tokenizer)
        except NotImplementedError:
            return name

    return recognise_or_name


if __name__ == "__main__":
    main()
