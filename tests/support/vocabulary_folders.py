"""Checkpoint folders with nothing but a config and a tokenizer, trained here, and the GGUF made of one.

Vocabularies are trained on the test corpus until every word is one token, so that a text cut at another place than
the original's gets other ids.
"""

import contextlib
import ctypes
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import gguf

from ggufkit.checkpoints.vocabulary import Typed, pretokenizers
from ggufkit.llamacpp import binding

CORPUS = Path(pretokenizers.__file__).with_name("corpus.txt")
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


def corpus() -> list[str]:
    return CORPUS.read_bytes().decode("utf-8").split("\n=====\n")


def write_config(
    folder: Path, vocabulary_size: int, architecture: str = "LlamaForCausalLM", **more: Any
) -> dict[str, Any]:
    """Write a config.json that llama.cpp's converter accepts without weights."""
    config = {
        "architectures": [architecture],
        "vocab_size": vocabulary_size,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 128,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        **more,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return config


def write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def write_byte_level(
    folder: Path,
    pre_tokenizer: Mapping[str, Any],
    *,
    ignore_merges: bool = False,
    normalizer: Mapping[str, Any] | None = None,
    special: Sequence[str] = SPECIAL,
    user_defined: Sequence[str] = (),
    size: int = 6000,
    spare_rows: int = 5,
    tokenizer_config: Mapping[str, Any] | None = None,
    post_processor: Mapping[str, Any] | None = None,
    **config: Any,
) -> dict[str, Any]:
    """Train a byte-level BPE vocabulary with a given way of cutting, and write it with its config."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

    empty = {"version": "1.0", "added_tokens": [], "truncation": None, "padding": None, "decoder": None}
    model = {"type": "BPE", "vocab": {}, "merges": [], "ignore_merges": ignore_merges}
    structure = {"normalizer": normalizer, "pre_tokenizer": pre_tokenizer, "post_processor": post_processor}
    tokenizer = Tokenizer.from_str(json.dumps({**empty, **structure, "model": model}))
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=size, min_frequency=1, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(corpus(), trainer)
    assert isinstance(tokenizer.model, models.BPE)
    tokenizer.add_special_tokens([AddedToken(text, normalized=False, special=True) for text in special])
    tokenizer.add_tokens([AddedToken(text, normalized=False, special=False) for text in user_defined])
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    write_json(
        folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", **(tokenizer_config or {})}
    )
    return write_config(folder, tokenizer.get_vocab_size() + spare_rows, **config)


def train_sentencepiece(folder: Path, *, size: int = 1500, kind: str = "bpe", **options: Any) -> Path:
    """Train tokenizer.model on the corpus."""
    from sentencepiece import SentencePieceTrainer

    folder.mkdir(parents=True, exist_ok=True)
    sentences = [line for text in corpus() for line in text.splitlines() if line.strip() and "\0" not in line]
    SentencePieceTrainer.train(
        sentence_iterator=iter(sentences),
        model_prefix=str(folder / "tokenizer"),
        model_type=kind,
        vocab_size=size,
        **{
            "byte_fallback": True,
            "character_coverage": 0.99,
            "normalization_rule_name": "identity",
            "remove_extra_whitespaces": False,
            "split_digits": True,
            "allow_whitespace_only_pieces": True,
            "minloglevel": 2,
            "hard_vocab_limit": False,
            **options,
        },
    )
    (folder / "tokenizer.vocab").unlink()
    return folder / "tokenizer.model"


def write_gguf(path: Path, metadata: Mapping[str, Any]) -> Path:
    """Write a vocabulary-only GGUF with the `gguf` package."""
    writer = gguf.GGUFWriter(path, "llama")
    for key, value in metadata.items():
        if isinstance(value, Typed):
            writer.add_key_value(key, value.value, gguf.GGUFValueType[value.kind])
        elif isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        else:
            writer.add_array(key, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


class LlamaVocabulary:
    """A GGUF's vocabulary, loaded by llama.cpp."""

    def __init__(self, path: Path) -> None:
        self.llama_cpp = binding.load()
        parameters = self.llama_cpp.llama_model_default_params()
        parameters.vocab_only = True
        self.model = self.llama_cpp.llama_model_load_from_file(str(path).encode(), parameters)
        assert self.model, binding.log_tail()
        self.vocab = self.llama_cpp.llama_model_get_vocab(self.model)

    def encode(self, text: str, *, add_special: bool = False, parse_special: bool = True) -> list[int]:
        content = text.encode("utf-8")
        room = len(content) + 16
        ids = (ctypes.c_int32 * room)()
        count = self.llama_cpp.llama_tokenize(self.vocab, content, len(content), ids, room, add_special, parse_special)
        assert count >= 0
        return list(ids[:count])

    def close(self) -> None:
        self.llama_cpp.llama_model_free(self.model)


@contextlib.contextmanager
def llama_vocabulary(path: Path) -> Iterator[LlamaVocabulary]:
    vocabulary = LlamaVocabulary(path)
    try:
        yield vocabulary
    finally:
        vocabulary.close()
