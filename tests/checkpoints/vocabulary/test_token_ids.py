"""Token ids: llama.cpp, given the metadata that we write, must cut every text as the original tokenizer does."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from vocabulary_folders import (
    SPECIAL,
    LlamaVocabulary,
    corpus,
    llama_vocabulary,
    train_sentencepiece,
    write_byte_level,
    write_config,
    write_gguf,
    write_json,
)

from ggufkit.checkpoints.vocabulary import tokenizer_metadata
from ggufkit.checkpoints.vocabulary.pretokenizers import TABLE, Row

pytestmark = [pytest.mark.oracle, pytest.mark.engine]

# llama.cpp writes "letter that is not a-z" for an uppercase letter, and has no place for combining marks
# (llama-vocab.cpp, LLAMA_VOCAB_PRE_TYPE_TEKKEN and _GPT4O: "original regex from tokenizer.json" against what it uses).
# So words with marks, and words whose case changes at a letter beyond ASCII, are cut elsewhere than in the original.


def ids_of(tokenizer: Tokenizer) -> Callable[[str], list[int]]:
    return lambda text: tokenizer.encode(text, add_special_tokens=False).ids


def differing(
    original: Callable[[str], Sequence[int]], ours: LlamaVocabulary, texts: Sequence[str], *, parse_special: bool = True
) -> list[str]:
    """List the texts that get other ids, each with the ids from the first difference on."""
    found = []
    for text in texts:
        wanted, got = list(original(text)), ours.encode(text, parse_special=parse_special)
        if wanted != got:
            place = next((i for i, (a, b) in enumerate(zip(wanted, got, strict=False)) if a != b), 0)
            found.append(f"{text[:40]!r}: {wanted[place : place + 6]} != {got[place : place + 6]}")
    return found


def has_marks_or_odd_case(text: str) -> bool:
    """Tell whether a text holds a combining mark, or a capital letter or digit beyond ASCII."""
    import unicodedata

    categories = [unicodedata.category(character) for character in text]
    return any(kind.startswith("M") for kind in categories) or any(
        kind in ("Lu", "Lt", "Nd") and ord(character) > 127 for kind, character in zip(categories, text, strict=True)
    )


@pytest.mark.parametrize("row", TABLE, ids=lambda row: f"{row.name} ({row.model})")
def test_every_row_of_the_table(row: Row, tmp_path: Path):
    for ignore_merges in row.ignore_merges:
        folder = tmp_path / str(ignore_merges)
        special = (*SPECIAL, row.marker) if row.marker else SPECIAL
        config = write_byte_level(folder, row.pre_tokenizer(), ignore_merges=ignore_merges, special=special)
        metadata = tokenizer_metadata(folder, config)
        assert metadata["tokenizer.ggml.pre"] == row.name
        original = Tokenizer.from_file(str(folder / "tokenizer.json"))
        texts = corpus()
        if row.differs:
            texts = [text for text in texts if not has_marks_or_odd_case(text)]
            if row.name == "tiny_aya":
                texts = [text for text in texts if not re.search(r"\s{2,}\d", text)]
            assert len(texts) > 30
        with llama_vocabulary(write_gguf(folder / "vocabulary.gguf", metadata)) as vocabulary:
            assert not differing(ids_of(original), vocabulary, texts)


def test_cased_names_still_differ_on_marks(tmp_path: Path):
    """When llama.cpp learns the original expression, the exception above goes."""
    row = next(row for row in TABLE if row.name == "tekken")
    config = write_byte_level(tmp_path, row.pre_tokenizer(), ignore_merges=True)
    original = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    path = write_gguf(tmp_path / "vocabulary.gguf", tokenizer_metadata(tmp_path, config))
    with llama_vocabulary(path) as vocabulary:
        assert differing(ids_of(original), vocabulary, ["שָׁלוֹם עֲלֵיכֶם", "GROẞSCHREIBUNG"])


def test_decomposed_text_differs_where_the_original_composes(tmp_path: Path):
    """Qwen's normalizer is NFC; llama.cpp has none. Text as people type it is composed already."""
    import unicodedata

    row = next(row for row in TABLE if row.name == "qwen2")
    config = write_byte_level(tmp_path, row.pre_tokenizer(), normalizer={"type": "NFC"})
    original = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    path = write_gguf(tmp_path / "vocabulary.gguf", tokenizer_metadata(tmp_path, config))
    composed = [text for text in corpus() if unicodedata.is_normalized("NFC", text)]
    decomposed = [text for text in corpus() if not unicodedata.is_normalized("NFC", text)]
    assert len(composed) > 45
    with llama_vocabulary(path) as vocabulary:
        assert not differing(ids_of(original), vocabulary, composed)
        again = [unicodedata.normalize("NFC", text) for text in decomposed]
        assert not differing(ids_of(original), vocabulary, again)
        assert len(differing(ids_of(original), vocabulary, decomposed)) == len(decomposed)


def test_added_tokens_in_the_middle_of_text(tmp_path: Path):
    row = next(row for row in TABLE if row.name == "qwen2")
    user_defined = ("<tool>", "    ", "\n\n\n", "§§")
    config = write_byte_level(tmp_path, row.pre_tokenizer(), user_defined=user_defined)
    original = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    plain = ["a<tool>b", "x        y", "if a:\n\n\n\n    b", "§§§ §§", "<|im_end|", "<tool><tool>\n", *corpus()]
    special = ["<|im_start|>user\nWho?<|im_end|>\n", "<|endoftext|><|endoftext|>", " <|im_end|> <tool>    "]
    path = write_gguf(tmp_path / "vocabulary.gguf", tokenizer_metadata(tmp_path, config))
    with llama_vocabulary(path) as vocabulary:
        assert not differing(ids_of(original), vocabulary, [*plain, *special])
        # Text from outside must not make control tokens; user-defined ones are text.
        for text in special:
            assert not set(vocabulary.encode(text, parse_special=False)) & {original.token_to_id(t) for t in SPECIAL}
        without = [text for text in plain if not any(token in text for token in SPECIAL)]
        assert not differing(ids_of(original), vocabulary, without, parse_special=False)


class TestSentencePiece:
    @pytest.mark.parametrize("add_dummy_prefix", [True, False])
    @pytest.mark.parametrize("size", [1500, 6000])
    def test_tokenizer_model(self, tmp_path: Path, size: int, add_dummy_prefix: bool):
        from sentencepiece import SentencePieceProcessor

        path = train_sentencepiece(tmp_path, size=size, add_dummy_prefix=add_dummy_prefix)
        original = SentencePieceProcessor(model_file=str(path))
        metadata = tokenizer_metadata(tmp_path, write_config(tmp_path, original.vocab_size() + 10), style="llama")
        with llama_vocabulary(write_gguf(tmp_path / "vocabulary.gguf", metadata)) as vocabulary:
            assert not differing(original.encode, vocabulary, corpus(), parse_special=False)

    def test_unigram_for_merging_would_cut_many_texts_differently(self, tmp_path: Path):
        """Why a decoder's unigram model becomes "t5" (test_encoders.py)."""
        from sentencepiece import SentencePieceProcessor

        path = train_sentencepiece(tmp_path, kind="unigram")
        # As llama.cpp's converter writes it: the pieces and their scores.
        original = SentencePieceProcessor(model_file=str(path))
        ids = range(original.vocab_size())
        types = [6 if original.is_byte(i) else 3 if original.is_control(i) else 1 for i in ids]
        metadata = {
            "tokenizer.ggml.model": "llama",
            "tokenizer.ggml.tokens": [original.id_to_piece(i) for i in ids],
            "tokenizer.ggml.scores": [original.get_score(i) for i in ids],
            "tokenizer.ggml.token_type": types,
        }
        with llama_vocabulary(write_gguf(tmp_path / "vocabulary.gguf", metadata)) as vocabulary:
            assert len(differing(original.encode, vocabulary, corpus(), parse_special=False)) > 10


class TestMergingTokenizerJson:
    """A SentencePiece vocabulary saved by transformers as tokenizer.json alone, as its version 5 does."""

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        from transformers import LlamaTokenizer

        train_sentencepiece(tmp_path / "model", size=6000)
        tokenizer = LlamaTokenizer.from_pretrained(tmp_path / "model")
        tokenizer.save_pretrained(tmp_path / "saved")
        write_config(tmp_path / "saved", len(tokenizer) + 3)
        return tmp_path / "saved"

    def test_ids(self, folder: Path):
        metadata = tokenizer_metadata(folder, {}, style="llama")
        original = Tokenizer.from_file(str(folder / "tokenizer.json"))
        # Its Metaspace puts no space before a text that begins with one; llama.cpp and SentencePiece always do.
        texts = [text for text in corpus() if not text.startswith((" ", "▁")) and "<s>" not in text]
        with llama_vocabulary(write_gguf(folder / "ours.gguf", metadata)) as vocabulary:
            assert not differing(ids_of(original), vocabulary, texts)

    def test_ids_of_a_gemma(self, tmp_path: Path):
        from transformers import GemmaTokenizer

        pieces = {"bos_piece": "<bos>", "eos_piece": "<eos>", "pad_id": 3, "pad_piece": "<pad>"}
        train_sentencepiece(tmp_path / "model", size=3000, add_dummy_prefix=False, control_symbols=["<mask>"], **pieces)
        tokenizer = GemmaTokenizer.from_pretrained(tmp_path / "model")
        tokenizer.save_pretrained(tmp_path / "saved")
        metadata = tokenizer_metadata(tmp_path / "saved", {"vocab_size": len(tokenizer)}, style="gemma")
        original = Tokenizer.from_file(str(tmp_path / "saved" / "tokenizer.json"))
        with llama_vocabulary(write_gguf(tmp_path / "ours.gguf", metadata)) as vocabulary:
            assert not differing(ids_of(original), vocabulary, corpus())

    def test_equal_scores_would_cut_many_texts_differently(self, folder: Path):
        """Why the scores are not those of llama.cpp's converter, which are all -1000."""
        metadata = tokenizer_metadata(folder, {}, style="llama")
        scores = metadata["tokenizer.ggml.scores"]
        assert isinstance(scores, list)
        metadata["tokenizer.ggml.scores"] = [-1000.0] * len(scores)
        original = Tokenizer.from_file(str(folder / "tokenizer.json"))
        with llama_vocabulary(write_gguf(folder / "upstream.gguf", metadata)) as vocabulary:
            found = differing(ids_of(original), vocabulary, corpus())
        assert len(found) > 10


def test_the_llama_2_spelling_of_a_merging_tokenizer(tmp_path: Path):
    """Normalizer Prepend and Replace, no pre-tokenizer."""
    from tokenizers import models, normalizers, trainers

    tokenizer = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=3000, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False)
    # Without a pre-tokenizer a text is one word; words are what pairs should come from.
    words = [word for text in corpus() for line in text.splitlines() for word in line.split(" ") if word]
    tokenizer.train_from_iterator(words, trainer)
    tokenizer.add_tokens(byte_tokens)
    content = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>"}
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    write_json(tmp_path / "tokenizer_config.json", content)
    metadata = tokenizer_metadata(tmp_path, {}, style="llama")
    texts = [text for text in corpus() if "<s>" not in text and all(c in " \n" or c.isprintable() for c in text)]
    known = set("".join(words)) | {" "}
    texts = [text for text in texts if set(text) <= known]
    assert len(texts) > 20
    with llama_vocabulary(write_gguf(tmp_path / "vocabulary.gguf", metadata)) as vocabulary:
        assert not differing(ids_of(tokenizer), vocabulary, texts)
