"""WordPiece and unigram vocabularies: llama.cpp must cut every text as the original tokenizer does."""

import unicodedata
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from vocabulary_folders import corpus, llama_vocabulary, train_sentencepiece, write_gguf, write_json

from ggufkit.checkpoints.vocabulary import read_vocabulary, tokenizer_metadata
from ggufkit.checkpoints.vocabulary.model_proto import read_settings
from ggufkit.errors import CheckpointError

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
EXTRA = [
    "[MASK] is [MASK]",
    "a [SEP] b",
    "x" * 300,
    "naïve CAFÉ Ångström",
    "don't—stop…",
    "日本語 and 中文",
    "​zero‌width",
]


def train_wordpiece(*, lowercase: bool, strip_accents: bool | None = None, size: int = 3000) -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase, strip_accents=strip_accents)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=size, special_tokens=SPECIAL, show_progress=False)
    tokenizer.train_from_iterator(corpus(), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer


def beyond_llama_cpp(text: str, *, strips: bool) -> bool:
    """Tell whether a text shows what llama.cpp does otherwise than BERT, whatever the metadata.

    A word of more than 100 characters is unknown to BERT; U+2028 and U+0085 are no spaces to llama.cpp's rules; it
    lowers a letter to one letter; and where it strips accents, it strips all marks and decomposes Hangul to less.
    """
    odd = any(len(word) > 100 for word in text.split()) or bool({"\u2028", "\x85", "İ"} & set(text))
    kinds = {unicodedata.category(character) for character in unicodedata.normalize("NFD", text)}
    hangul = any("\uac00" <= character <= "\ud7a3" for character in unicodedata.normalize("NFC", text))
    return odd or (strips and (bool(kinds & {"Mc", "Me"}) or hangul))


def differing(tokenizer: Tokenizer, path: Path, texts: list[str], *, add_special: bool = False) -> list[str]:
    with llama_vocabulary(path) as vocabulary:
        return [
            text
            for text in texts
            if tokenizer.encode(text, add_special_tokens=add_special).ids
            != vocabulary.encode(text, add_special=add_special)
        ]


@pytest.mark.oracle
@pytest.mark.engine
@pytest.mark.parametrize("lowercase", [True, False])
@pytest.mark.parametrize("strip_accents", [None, True, False])
def test_wordpiece(tmp_path: Path, lowercase: bool, strip_accents: bool | None):
    tokenizer = train_wordpiece(lowercase=lowercase, strip_accents=strip_accents)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    settings = {"cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]", "pad_token": "[PAD]"}
    write_json(tmp_path / "tokenizer_config.json", {**settings, "mask_token": "[MASK]"})
    metadata = tokenizer_metadata(tmp_path, {"vocab_size": 4000, "type_vocab_size": 2}, style="bert")
    assert metadata["tokenizer.ggml.token_type_count"] == 2
    strips = lowercase if strip_accents is None else strip_accents
    texts = [text for text in [*corpus(), *EXTRA] if not beyond_llama_cpp(text, strips=strips)]
    assert len(texts) > 50
    path = write_gguf(tmp_path / "v.gguf", metadata)
    assert not differing(tokenizer, path, texts, add_special=True)
    if strips:
        assert differing(tokenizer, path, ["안녕하세요", "नमस्ते दुनिया"]), "llama.cpp has learned it: the remark can go"


@pytest.mark.oracle
@pytest.mark.engine
def test_vocab_txt(tmp_path: Path):
    tokenizer = train_wordpiece(lowercase=True)
    texts = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().__getitem__)
    (tmp_path / "vocab.txt").write_text("\n".join(texts) + "\n", encoding="utf-8")
    metadata = tokenizer_metadata(tmp_path, {}, style="bert")
    texts = [text for text in [*corpus(), *EXTRA] if not beyond_llama_cpp(text, strips=True)]
    assert not differing(tokenizer, write_gguf(tmp_path / "v.gguf", metadata), texts, add_special=True)


class TestRefusals:
    @pytest.fixture
    def content(self) -> dict[str, Any]:
        import json

        content: dict[str, Any] = json.loads(train_wordpiece(lowercase=True, size=300).to_str())
        return content

    def test_a_vocabulary_without_the_tokens_that_open_and_close(self, tmp_path: Path, content: dict[str, Any]):
        content["added_tokens"] = []
        content["post_processor"] = None
        content["model"]["vocab"] = {"[UNK]": 0, "a": 1}
        write_json(tmp_path / "tokenizer.json", content)
        with pytest.raises(CheckpointError, match=r"no token '\[CLS\]'"):
            tokenizer_metadata(tmp_path, {}, style="bert")

    @pytest.mark.parametrize(
        ("key", "value", "message"),
        [
            ("normalizer", {"type": "Lowercase"}, "Lowercase"),
            ("normalizer", {"type": "BertNormalizer", "handle_chinese_chars": False}, "handle_chinese_chars"),
            ("pre_tokenizer", {"type": "Whitespace"}, "Whitespace"),
        ],
    )
    def test_another_way_of_cutting(
        self, tmp_path: Path, content: dict[str, Any], key: str, value: object, message: str
    ):
        content[key] = value
        write_json(tmp_path / "tokenizer.json", content)
        with pytest.raises(CheckpointError, match=message):
            tokenizer_metadata(tmp_path, {}, style="bert")


@pytest.mark.oracle
@pytest.mark.engine
@pytest.mark.parametrize("rule", ["nmt_nfkc", "identity", "nmt_nfkc_cf"])
@pytest.mark.parametrize("style", ["t5", "llama"])
def test_unigram_model(tmp_path: Path, rule: str, style: str):
    from sentencepiece import SentencePieceProcessor

    options = {"byte_fallback": False, "normalization_rule_name": rule, "remove_extra_whitespaces": rule != "identity"}
    path = train_sentencepiece(tmp_path, kind="unigram", split_digits=False, **options)
    original = SentencePieceProcessor(model_file=str(path))
    metadata = tokenizer_metadata(tmp_path, {"vocab_size": original.vocab_size() + 5}, style=style)
    assert metadata["tokenizer.ggml.model"] == "t5"
    with llama_vocabulary(write_gguf(tmp_path / "v.gguf", metadata)) as vocabulary:
        scores = metadata["tokenizer.ggml.scores"]
        assert isinstance(scores, list)
        for text in corpus():
            wanted, got = original.encode(text), vocabulary.encode(text, parse_special=False)
            if "\0" in text or not text.strip(" "):
                continue  # cut at the zero by SentencePiece's binding; spaces alone get none in front by llama.cpp
            tie = abs(sum(scores[i] for i in wanted) - sum(scores[i] for i in got)) < 1e-3
            assert wanted == got or (tie and len(wanted) == len(got)), text


@pytest.mark.oracle
@pytest.mark.engine
@pytest.mark.parametrize("family", ["T5", "XLMRoberta"])
def test_unigram_json(tmp_path: Path, family: str):
    """As transformers saves it: tokenizer.json alone."""
    import transformers
    from sentencepiece import SentencePieceProcessor

    path = train_sentencepiece(
        tmp_path, kind="unigram", byte_fallback=False, normalization_rule_name="nmt_nfkc", split_digits=False
    )
    pieces = SentencePieceProcessor(model_file=str(path))
    vocab = [(pieces.id_to_piece(i), pieces.get_score(i)) for i in range(3, pieces.vocab_size())]
    first = ["<pad>", "</s>", "<unk>"] if family == "T5" else ["<s>", "<pad>", "</s>", "<unk>"]
    last = [] if family == "T5" else [("<mask>", 0.0)]
    charsmap = read_settings(path.read_bytes()).precompiled_charsmap
    tokenizer_class = getattr(transformers, f"{family}Tokenizer")
    tokenizer = tokenizer_class(
        vocab=[*((text, 0.0) for text in first), *vocab, *last], _spm_precompiled_charsmap=charsmap
    )
    tokenizer.save_pretrained(tmp_path / "saved")
    original = Tokenizer.from_file(str(tmp_path / "saved" / "tokenizer.json"))
    style = "t5" if family == "T5" else "bert"
    vocabulary = read_vocabulary(tmp_path / "saved", {"vocab_size": len(tokenizer) + 3}, style=style)
    assert vocabulary.remarks == ()
    texts = [text for text in corpus() if "\0" not in text and "NFC" not in text and "\x85" not in text] + [
        "<extra_id_3> x <mask>",
        "</s>",
    ]
    assert not differing(original, write_gguf(tmp_path / "v.gguf", vocabulary.metadata), texts, add_special=True)
