"""Tokenizers as small as the tiny checkpoints: one of the kind that each family of architectures has."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import tiny_checkpoints
from tiny_checkpoints import VOCABULARY, train_sentencepiece
from vocabulary_folders import write_json

from ggufkit.checkpoints.vocabulary.model_proto import read_settings
from ggufkit.checkpoints.vocabulary.pretokenizers import TABLE

WORDS = [f"{a}{b}{c}" for a in "bdfgklmnprst" for b in "aeiou" for c in "lmnrst"]
TURNS = ["<start_of_turn>", "<end_of_turn>"]
GLM = ["<|endoftext|>", "[gMASK]", "[sMASK]", "<sop>", "<eop>", "<|system|>", "<|user|>", "<|assistant|>"]
WORDPIECE = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def write_tokenizer(style: str, architecture: str, folder: Path) -> None:
    """Write a tokenizer of VOCABULARY tokens, of the kind that checkpoints of this style and class bring."""
    if style == "bert":
        style = "bert" if "DistilBert" in architecture or architecture.startswith("Bert") else "roberta"
        style = "xlm-roberta" if architecture.startswith(("XLM", "Camembert")) else style
    WRITERS[style](folder)


def _byte_level(cut: str, special: Sequence[str], **roles: str) -> Callable[[Path], None]:
    """Cut as a row of llama.cpp's pre-tokenizers does; `roles` are tokens of tokenizer_config.json."""

    def write(folder: Path) -> None:
        from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers

        row = next(row for row in TABLE if row.name == cut)
        model = {"type": "BPE", "vocab": {}, "merges": [], "ignore_merges": row.ignore_merges[-1]}
        empty = dict.fromkeys(("truncation", "padding", "normalizer", "post_processor", "decoder"))
        content = {"version": "1.0", "added_tokens": [], **empty, "pre_tokenizer": row.pre_tokenizer(), "model": model}
        tokenizer = Tokenizer.from_str(json.dumps(content))
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        trainer = trainers.BpeTrainer(
            vocab_size=VOCABULARY, special_tokens=list(special), initial_alphabet=alphabet, show_progress=False
        )
        tokenizer.train_from_iterator([" ".join(WORDS), "I'll say it's 1234 o'clock"] * 4, trainer)
        assert tokenizer.get_vocab_size() == VOCABULARY
        tokenizer.save(str(folder / "tokenizer.json"))
        write_json(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", **roles})

    return write


def _gemma(folder: Path) -> None:
    """Train a SentencePiece model that puts no space in front of a text."""
    options = {"bos_id": 2, "eos_id": 1, "pad_id": 0, "unk_id": 3, "add_dummy_prefix": False}
    train_sentencepiece(folder, user_defined_symbols=TURNS, **options)
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "GemmaTokenizer", "add_bos_token": True})


def _gemma_4(folder: Path) -> None:
    """Merge over the whole text, spaces and all, without a SentencePiece model."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    first = ["<pad>", "<eos>", "<bos>", "<unk>", "<|turn>", "<turn|>"]
    in_bytes = [f"<0x{byte:02X}>" for byte in range(256)]
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=[*first, *in_bytes], show_progress=False)
    tokenizer.train_from_iterator([f" {word}" for word in WORDS] * 4, trainer)
    content = json.loads(tokenizer.to_str())
    content["added_tokens"] = [token for token in content["added_tokens"] if token["content"] in first]
    assert len(content["model"]["vocab"]) == VOCABULARY, len(content["model"]["vocab"])
    write_json(folder / "tokenizer.json", content)
    roles = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>"}
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", **roles})


def _wordpiece(folder: Path) -> None:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=VOCABULARY, special_tokens=WORDPIECE, show_progress=False)
    tokenizer.train_from_iterator([*WORDS, "0 1 2 3 4 5 6 7 8 9 , . ! ?"] * 4, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    roles = {"cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]", "pad_token": "[PAD]"}
    settings = {"tokenizer_class": "BertTokenizerFast", "mask_token": "[MASK]", "do_lower_case": True}
    write_json(folder / "tokenizer_config.json", {**settings, **roles})


def _unigram(first: Sequence[str], last: Sequence[str], family: str) -> Callable[[Path], None]:
    """Train a SentencePiece model, and have transformers save it as it does those of the family."""

    def write(folder: Path) -> None:
        import transformers
        from sentencepiece import SentencePieceProcessor

        options = {"model_type": "unigram", "byte_fallback": False, "normalization_rule_name": "nmt_nfkc"}
        path = train_sentencepiece(folder, vocab_size=360, remove_extra_whitespaces=True, **options)
        model = SentencePieceProcessor(model_file=str(path))
        pieces = [(model.id_to_piece(i), model.get_score(i)) for i in range(3, model.vocab_size())]
        charsmap = read_settings(path.read_bytes()).precompiled_charsmap
        path.unlink()
        ends: list[Any] = [[(text, 0.0) for text in part] for part in (first, last)]
        tokenizer_class = getattr(transformers, f"{family}Tokenizer")
        tokenizer = tokenizer_class(
            vocab=[*ends[0], *pieces, *ends[1]], _spm_precompiled_charsmap=charsmap, extra_ids=0
        )
        assert len(tokenizer) <= VOCABULARY  # the rest are rows without a token
        tokenizer.save_pretrained(folder)

    return write


def _sentencepiece(folder: Path) -> None:
    tiny_checkpoints.write_tokenizer("sentencepiece", folder)


def _internlm2(folder: Path) -> None:
    """Train a SentencePiece model that has the marks of turns."""
    train_sentencepiece(folder, user_defined_symbols=["<|im_start|>", "<|im_end|>"])
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "InternLM2Tokenizer", "add_bos_token": True})


_END = "<|endoftext|>"
_ROBERTA = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
_CLS = {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]", "unk_token": "[UNK]", "mask_token": "[MASK]"}
_LLAMA_3 = ["<|begin_of_text|>", "<|end_of_text|>", "<|mask|>", "<|pad|>"]
_XLM = _unigram(["<s>", "<pad>", "</s>", "<unk>"], ["<mask>"], "XLMRoberta")
# By the styles of ggufkit/checkpoints/vocabulary/families.py.
WRITERS: dict[str, Callable[[Path], None]] = {
    "auto": lambda folder: tiny_checkpoints.write_tokenizer("byte-level-bpe", folder),
    "byte-level": lambda folder: tiny_checkpoints.write_tokenizer("byte-level-bpe", folder),
    "llama": _sentencepiece,
    "ernie": _sentencepiece,
    "internlm2": _internlm2,
    "gemma": _gemma,
    "gemma-1": _gemma,
    "gemma-4": _gemma_4,
    "bert": _wordpiece,
    "roberta": _byte_level("gpt-2", _ROBERTA, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"),
    "xlm-roberta": _XLM,
    "modern-bert": _byte_level("gpt-2", WORDPIECE, **_CLS),
    "euro-bert": _byte_level("llama-bpe", _LLAMA_3, bos_token=_LLAMA_3[0], eos_token=_LLAMA_3[1]),
    "t5": _unigram(["<pad>", "</s>", "<unk>"], [], "T5"),
    "chatglm": _byte_level("dbrx", GLM, eos_token=_END, pad_token=_END),
    "glm": _byte_level("dbrx", GLM, eos_token=_END, pad_token=_END),
    "glm-4": _byte_level("dbrx", GLM, eos_token=_END, pad_token=_END),
    "mamba": _byte_level("gpt-2", [_END, "<|padding|>"], bos_token=_END, eos_token=_END),
    "mamba-2": _byte_level("gpt-2", [_END, "<|padding|>"], bos_token=_END, eos_token=_END),
    "nemotron": _byte_level("gpt-2", ["<unk>", "<s>", "</s>"], bos_token="<s>", eos_token="</s>"),
    "phi": _byte_level("gpt-2", [_END], bos_token=_END, eos_token=_END, unk_token=_END),
}
