"""What becomes of a folder's tokenizer files, on vocabularies small enough to be read."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import tiny_checkpoints
from tokenizer_samples import BYTE_LEVEL, BYTE_TOKENS, BYTES, MERGING, QWEN2_REGEX, added, split
from vocabulary_folders import write_json

from ggufkit.checkpoints.vocabulary import read_vocabulary, tokenizer_metadata
from ggufkit.errors import CheckpointError

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6


@pytest.fixture
def byte_level(tmp_path: Path) -> Path:
    write_json(tmp_path / "tokenizer.json", BYTE_LEVEL)
    return tmp_path


def change(folder: Path, *keys: str | int, value: object) -> None:
    """Change one entry of tokenizer.json."""
    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    place = content
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = copy.deepcopy(value)
    write_json(folder / "tokenizer.json", content)


class TestByteLevel:
    def test_lists(self, byte_level: Path):
        metadata = tokenizer_metadata(byte_level, {"vocab_size": 7})
        assert metadata["tokenizer.ggml.model"] == "gpt2"
        assert metadata["tokenizer.ggml.pre"] == "qwen2"
        assert metadata["tokenizer.ggml.tokens"] == ["a", "b", "Ġ", "ab", "Ġab", "<|end|>", "[PAD6]"]
        assert metadata["tokenizer.ggml.token_type"] == [NORMAL] * 5 + [CONTROL, UNUSED]
        assert metadata["tokenizer.ggml.merges"] == ["a b", "Ġ ab"]
        assert "tokenizer.ggml.scores" not in metadata

    def test_without_vocab_size_every_id_is_used(self, byte_level: Path):
        assert len(tokenizer_metadata(byte_level, {})["tokenizer.ggml.tokens"]) == 6  # type: ignore[arg-type]

    def test_added_tokens_become_what_is_looked_for_in_plain_text(self, byte_level: Path):
        tokens = [
            added(5, "ĠĠ", special=False),  # byte-level spelling of two spaces
            added(6, "ĠĠĠ", special=False, normalized=True),  # meant to the letter
            added(7, "one▁two", special=False),
            added(8, "<|looks_special|>", special=False),
            added(9, "<\uff5cbegin▁of▁sentence\uff5c>", special=False),
        ]
        change(byte_level, "added_tokens", value=tokens)
        metadata = tokenizer_metadata(byte_level, {})
        assert metadata["tokenizer.ggml.tokens"][5:] == [  # type: ignore[index]
            "  ",
            "ĠĠĠ",
            "one two",
            "<|looks_special|>",
            "<\uff5cbegin▁of▁sentence\uff5c>",
        ]
        assert metadata["tokenizer.ggml.token_type"][5:] == [USER_DEFINED] * 3 + [CONTROL] * 2  # type: ignore[index]

    def test_tokens_that_only_tokenizer_config_adds(self, byte_level: Path):
        write_json(byte_level / "tokenizer_config.json", {"added_tokens_decoder": {"6": added(6, "<|more|>")}})
        assert tokenizer_metadata(byte_level, {})["tokenizer.ggml.tokens"][6] == "<|more|>"  # type: ignore[index]

    def test_a_space_inside_a_merge_is_spelled(self, byte_level: Path):
        change(byte_level, "model", "vocab", value={"a": 0, " ": 1, "a ": 2})
        change(byte_level, "model", "merges", value=[["a", " "]])
        change(byte_level, "added_tokens", value=[])
        assert tokenizer_metadata(byte_level, {})["tokenizer.ggml.merges"] == ["a Ġ"]

    def test_vocab_json_and_merges_txt(self, tmp_path: Path):
        write_json(tmp_path / "vocab.json", {"a": 0, "b": 1, "ab": 2, "<|endoftext|>": 3})
        (tmp_path / "merges.txt").write_text("#version: 0.2\na b\n\n", encoding="utf-8")
        write_json(tmp_path / "added_tokens.json", {"<|im_start|>": 4, "other": 5})
        write_json(tmp_path / "tokenizer_config.json", {"tokenizer_class": "GPT2TokenizerFast"})
        metadata = tokenizer_metadata(tmp_path, {})
        assert metadata["tokenizer.ggml.pre"] == "gpt-2"
        assert metadata["tokenizer.ggml.merges"] == ["a b"]
        assert metadata["tokenizer.ggml.tokens"] == ["a", "b", "ab", "<|endoftext|>", "<|im_start|>", "other"]
        assert metadata["tokenizer.ggml.token_type"] == [NORMAL] * 3 + [CONTROL, CONTROL, USER_DEFINED]


class TestMerging:
    """tokenizer.json that holds a SentencePiece vocabulary."""

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        write_json(tmp_path / "tokenizer.json", MERGING)
        return tmp_path

    def test_lists(self, folder: Path):
        metadata = tokenizer_metadata(folder, {"vocab_size": 264}, style="llama")
        assert metadata["tokenizer.ggml.model"] == "llama"
        assert metadata["tokenizer.ggml.pre"] == "default"
        assert metadata["tokenizer.ggml.tokens"] == [
            "<unk>",
            "<s>",
            *BYTE_TOKENS,
            "▁",
            "a",
            "b",
            "ab",
            "▁ab",
            "[PAD263]",
        ]
        assert metadata["tokenizer.ggml.token_type"] == [CONTROL] * 2 + [BYTE] * 256 + [NORMAL] * 5 + [UNUSED]
        assert "tokenizer.ggml.merges" not in metadata
        assert "tokenizer.ggml.add_space_prefix" not in metadata

    def test_scores_follow_the_merges(self, folder: Path):
        scores = tokenizer_metadata(folder, {})["tokenizer.ggml.scores"]
        assert isinstance(scores, list)
        a, ab, space_ab = (MERGING["model"]["vocab"][text] for text in ("a", "ab", "▁ab"))
        assert scores[ab] > scores[space_ab] > scores[a]

    def test_every_byte_needs_a_token(self, folder: Path):
        vocabulary = {text: i for i, text in enumerate(t for t in MERGING["model"]["vocab"] if t != "<0xFF>")}
        change(folder, "model", "vocab", value=vocabulary)
        with pytest.raises(CheckpointError, match="no token for the byte <0xFF>"):
            tokenizer_metadata(folder, {})

    @pytest.mark.parametrize(
        ("normalizer", "pre_tokenizer", "prefix"),
        [
            (None, {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}, True),
            (None, {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "never", "split": False}, False),
            (None, {"type": "Metaspace", "replacement": "▁", "add_prefix_space": True}, True),
            (MERGING["normalizer"]["normalizers"][1], None, False),
            (
                MERGING["normalizer"]["normalizers"][1],
                {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious"},
                False,
            ),
        ],
    )
    def test_whether_a_space_goes_in_front(self, folder: Path, normalizer: Any, pre_tokenizer: Any, prefix: bool):
        change(folder, "normalizer", value=normalizer)
        change(folder, "pre_tokenizer", value=pre_tokenizer)
        written = tokenizer_metadata(folder, {}).get("tokenizer.ggml.add_space_prefix", True)
        assert written is prefix

    def test_unknown_normalizer(self, folder: Path):
        change(folder, "normalizer", value={"type": "NFKC"})
        with pytest.raises(CheckpointError, match="NFKC") as caught:
            tokenizer_metadata(folder, {})
        assert caught.value.hint is not None
        assert "--converter llama.cpp" in caught.value.hint

    def test_a_split_between_words_is_refused_where_tokens_span_them(self, folder: Path):
        change(folder, "normalizer", value=None)
        change(folder, "pre_tokenizer", value={"type": "Metaspace", "replacement": "▁", "split": True})
        tokenizer_metadata(folder, {})
        change(folder, "model", "vocab", "a▁b", value=263)
        with pytest.raises(CheckpointError, match="Metaspace"):
            tokenizer_metadata(folder, {})


class TestLlamaWays:
    def test_add_prefix_space(self, byte_level: Path):
        write_json(byte_level / "tokenizer_config.json", {"add_prefix_space": False})
        key = "tokenizer.ggml.add_space_prefix"
        assert tokenizer_metadata(byte_level, {}, style="llama")[key] is False
        assert key not in tokenizer_metadata(byte_level, {}, style="auto")

    def test_code_llama_and_granite(self, byte_level: Path):
        assert (
            tokenizer_metadata(byte_level, {"vocab_size": 32016}, style="llama")["tokenizer.ggml.eot_token_id"] == 32010
        )
        assert (
            tokenizer_metadata(byte_level, {"vocab_size": 49152}, style="llama")["tokenizer.ggml.add_bos_token"]
            is False
        )


class TestSpecialTokens:
    def test_names_before_ids_of_config(self, byte_level: Path):
        write_json(byte_level / "tokenizer_config.json", {"eos_token": {"content": "<|end|>"}, "bos_token": None})
        config = {"eos_token_id": 3, "bos_token_id": 2, "pad_token_id": [1, 2], "unk_token_id": 99, "cls_token_id": 1}
        metadata = tokenizer_metadata(byte_level, config)
        assert metadata["tokenizer.ggml.eos_token_id"] == 5
        assert metadata["tokenizer.ggml.bos_token_id"] == 2
        assert not {"tokenizer.ggml.padding_token_id", "tokenizer.ggml.unknown_token_id"} & metadata.keys()

    def test_flags_of_tokenizer_config(self, byte_level: Path):
        write_json(byte_level / "tokenizer_config.json", {"add_bos_token": True, "add_eos_token": None})
        metadata = tokenizer_metadata(byte_level, {})
        assert metadata["tokenizer.ggml.add_bos_token"] is True
        assert "tokenizer.ggml.add_eos_token" not in metadata

    def test_the_post_processor_is_believed_before_the_flags(self, byte_level: Path):
        change(byte_level, "post_processor", value={"type": "ByteLevel"})
        write_json(byte_level / "tokenizer_config.json", {"add_bos_token": True})
        assert tokenizer_metadata(byte_level, {})["tokenizer.ggml.add_bos_token"] is False

    def test_template_with_another_last_token_than_eos(self, byte_level: Path):
        single = [{"SpecialToken": {"id": "<s>"}}, {"Sequence": {"id": "A"}}, {"SpecialToken": {"id": "</s>"}}]
        change(byte_level, "added_tokens", value=[added(5, "<|end|>"), added(6, "<s>"), added(7, "</s>")])
        change(byte_level, "post_processor", value={"type": "TemplateProcessing", "single": single, "pair": []})
        write_json(byte_level / "tokenizer_config.json", {"bos_token": "<s>", "eos_token": "<|end|>"})
        metadata = tokenizer_metadata(byte_level, {})
        assert metadata["tokenizer.ggml.add_bos_token"] is True
        assert metadata["tokenizer.ggml.add_eos_token"] is True
        assert metadata["tokenizer.ggml.eos_token_id"] == 7
        assert metadata["tokenizer.ggml.eot_token_id"] == 5


class TestChatTemplates:
    KEY = "tokenizer.chat_template"

    def test_text(self, byte_level: Path):
        write_json(byte_level / "tokenizer_config.json", {"chat_template": "{{ a }}"})
        assert tokenizer_metadata(byte_level, {})[self.KEY] == "{{ a }}"
        (byte_level / "chat_template.jinja").write_text("{{ b }}", encoding="utf-8")
        assert tokenizer_metadata(byte_level, {})[self.KEY] == "{{ b }}"

    def test_named(self, byte_level: Path):
        named = [{"name": "default", "template": "D"}, {"name": "tool use", "template": "T"}]
        write_json(byte_level / "tokenizer_config.json", {"chat_template": named})
        metadata = tokenizer_metadata(byte_level, {})
        assert metadata[self.KEY] == "D"
        assert metadata[f"{self.KEY}.tool_use"] == "T"
        assert metadata["tokenizer.chat_templates"] == ["tool_use"]

    def test_jinja_file_and_additional_ones(self, byte_level: Path):
        write_json(byte_level / "tokenizer_config.json", {"eos_token": "<|end|>"})
        (byte_level / "chat_template.jinja").write_text("Ü {{ a }}\n", encoding="utf-8")
        assert tokenizer_metadata(byte_level, {})[self.KEY] == "Ü {{ a }}\n"
        (byte_level / "additional_chat_templates").mkdir()
        (byte_level / "additional_chat_templates" / "rag.jinja").write_text("R", encoding="utf-8")
        assert tokenizer_metadata(byte_level, {})[f"{self.KEY}.rag"] == "R"

    def test_json_file(self, byte_level: Path):
        write_json(byte_level / "chat_template.json", {"chat_template": "J"})
        assert tokenizer_metadata(byte_level, {})[self.KEY] == "J"

    @pytest.mark.parametrize("template", [7, {"a": "b"}, [{"name": "x"}], ["x"]])
    def test_wrong_type(self, byte_level: Path, template: object):
        write_json(byte_level / "tokenizer_config.json", {"chat_template": template})
        with pytest.raises(CheckpointError, match=r"tokenizer_config\.json.*chat.template"):
            tokenizer_metadata(byte_level, {})


class TestEnds:
    """At which tokens generation stops, beside those that llama.cpp knows by their texts."""

    EOS, EOT, EOM = (f"tokenizer.ggml.{role}_token_id" for role in ("eos", "eot", "eom"))

    def test_what_generation_config_lists(self, byte_level: Path):
        write_json(byte_level / "tokenizer_config.json", {"eos_token": "<|end|>"})
        write_json(byte_level / "generation_config.json", {"eos_token_id": [5, 2, 3]})
        metadata = tokenizer_metadata(byte_level, {"eos_token_id": 5})
        assert (metadata[self.EOS], metadata[self.EOT], metadata[self.EOM]) == (5, 2, 3)

    def test_more_than_a_file_has_places_for(self, byte_level: Path):
        vocabulary = read_vocabulary(byte_level, {"eos_token_id": [0, 1, 2, 3]})
        assert vocabulary.metadata[self.EOM] == 2
        assert vocabulary.remarks == ("generation also stops at 'ab', for which a GGUF file has no place",)

    def test_what_llama_cpp_knows_by_its_text_takes_no_place(self, byte_level: Path):
        change(byte_level, "added_tokens", value=[added(5, "<|im_end|>"), added(6, "<|endoftext|>")])
        metadata = tokenizer_metadata(byte_level, {"eos_token_id": [5, 6]})
        assert metadata[self.EOS] == 5
        assert self.EOT not in metadata

    def test_no_file_says_it(self, byte_level: Path):
        change(byte_level, "added_tokens", value=[added(5, "<|x|>"), added(6, "<|endoftext|>")])
        assert tokenizer_metadata(byte_level, {})[self.EOS] == 6

    @pytest.mark.parametrize("value", ["x", [1, "x"], {"a": 1}, 1.5])
    def test_malformed(self, byte_level: Path, value: object):
        write_json(byte_level / "generation_config.json", {"eos_token_id": value})
        with pytest.raises(CheckpointError, match=r"generation_config\.json: `eos_token_id`"):
            tokenizer_metadata(byte_level, {})


class TestAddedTokensOutOfOrder:
    def test_the_list_numbers_them_as_in_the_tokenizers_library(self, byte_level: Path):
        from tokenizers import Tokenizer

        change(byte_level, "added_tokens", value=[added(7, "<x>"), added(5, "<y>"), added(6, "<z>")])
        tokens = tokenizer_metadata(byte_level, {})["tokenizer.ggml.tokens"]
        assert isinstance(tokens, list)
        assert tokens[5:] == ["<x>", "<y>", "<z>"]
        original = json.loads((byte_level / "tokenizer.json").read_text(encoding="utf-8"))
        flags = {"single_word": False, "lstrip": False, "rstrip": False}
        original["added_tokens"] = [{**entry, **flags} for entry in original["added_tokens"]]
        original |= {"version": "1.0", "decoder": None, "pre_tokenizer": None}
        original["model"]["merges"] = []
        vocab = Tokenizer.from_str(json.dumps(original)).get_vocab()
        assert {text: tokens.index(text) for text in vocab} == vocab


class TestRows:
    def test_the_embedding_counts_more_than_the_config(self, byte_level: Path):
        vocabulary = read_vocabulary(byte_level, {"vocab_size": 7}, rows=9)
        assert len(vocabulary.metadata["tokenizer.ggml.tokens"]) == 9  # type: ignore[arg-type]
        assert "vocab_size of 7, but the embedding has 9 rows" in vocabulary.remarks[0]

    def test_tokens_without_a_row(self, byte_level: Path):
        with pytest.raises(
            CheckpointError, match=r"6 tokens, but .* room for 4 .*; 2 have no row \('Ġab': 4"
        ) as caught:
            read_vocabulary(byte_level, {}, rows=4)
        assert "--tokenizer-from" in (caught.value.hint or "")


class TestPretokenizers:
    def test_two_spellings_of_one_structure(self, byte_level: Path):
        change(byte_level, "pre_tokenizer", "pretokenizers", 0, value=split(QWEN2_REGEX, "Removed", True))
        assert tokenizer_metadata(byte_level, {})["tokenizer.ggml.pre"] == "qwen2"

    @pytest.mark.parametrize(
        ("keys", "value"),
        [
            (("pre_tokenizer", "pretokenizers", 0), split(QWEN2_REGEX.replace(r"\p{N}|", r"\p{N}{1,2}|"))),
            (("pre_tokenizer", "pretokenizers", 0), split(QWEN2_REGEX, "Removed", False)),
            (("pre_tokenizer", "pretokenizers", 1), {**BYTES, "add_prefix_space": True}),
            (("pre_tokenizer", "pretokenizers", 0), {"type": "Whitespace"}),
            (("pre_tokenizer",), None),
            (("normalizer",), {"type": "Lowercase"}),
            (("model", "ignore_merges"), True),
        ],
    )
    def test_unknown_structure(self, byte_level: Path, keys: tuple[str | int, ...], value: object):
        change(byte_level, *keys, value=value)
        with pytest.raises(CheckpointError, match=r"tokenizer\.json: .*llama\.cpp") as caught:
            tokenizer_metadata(byte_level, {})
        assert caught.value.hint is not None
        assert "--converter llama.cpp" in caught.value.hint


class TestErrors:
    def test_no_tokenizer(self, tmp_path: Path):
        with pytest.raises(CheckpointError, match="no tokenizer"):
            tokenizer_metadata(tmp_path, {})

    @pytest.mark.parametrize("content", ["{", "[]", "\udcff", '{"model": 1}', '{"model": {}}', '{"added_tokens": [1]}'])
    def test_malformed_tokenizer_json(self, tmp_path: Path, content: str):
        (tmp_path / "tokenizer.json").write_bytes(content.encode("utf-8", "surrogateescape"))
        with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
            tokenizer_metadata(tmp_path, {})

    @pytest.mark.parametrize("name", ["tokenizer_config.json", "added_tokens.json"])
    def test_malformed_companions(self, byte_level: Path, name: str):
        (byte_level / name).write_text("nonsense", encoding="utf-8")
        with pytest.raises(CheckpointError, match=name):
            tokenizer_metadata(byte_level, {})

    def test_a_tokenizer_model_that_is_none(self, tmp_path: Path):
        (tmp_path / "tokenizer.model").write_bytes(b"\x0a\xff\xff")
        with pytest.raises(CheckpointError, match=r"tokenizer\.model: not a SentencePiece model"):
            tokenizer_metadata(tmp_path, {})

    def test_a_tokenizer_model_whose_fault_the_library_cannot_put_into_words(self, tmp_path: Path):
        """Its complaint quotes the piece, which is not UTF-8."""
        tiny_checkpoints.write_tokenizer("sentencepiece", tmp_path)
        model = tmp_path / "tokenizer.model"
        model.write_bytes(model.read_bytes().replace(b"<0x9C>", b"<0x9\xe1>"))
        with pytest.raises(CheckpointError, match=r"tokenizer\.model: not a SentencePiece model: .*byte piece"):
            tokenizer_metadata(tmp_path, {})

    @pytest.mark.parametrize(
        ("keys", "value", "message"),
        [
            (("model", "vocab", "b"), 0, "share the id 0"),
            (("model", "vocab", "b"), -1, "expected a number"),
            (("model", "vocab", "b"), "1", "expected a number"),
            (("model", "merges"), ["a b", "b c"], "names no token: 'c'"),
            (("model", "merges"), ["a b", "b b"], "names no token: 'bb'"),
            (("model", "merges"), ["a b c"], "not a pair"),
            (("model", "merges"), None, "no `merges`"),
            (("model", "type"), "WordLevel", "type WordLevel"),
            (("model", "type"), "Unigram", "no `vocab` in its model"),
            (("added_tokens",), [added(4, "<|end|>")], "has the id 4 of 'Ġab'"),
            (("added_tokens",), [added(5, "ab")], "has the ids 5 and 3"),
            (("added_tokens",), [added(5, "x"), added(5, "y")], "has the id 5 of 'x'"),
            (("added_tokens",), [added(5, "x▁", special=False), added(6, "x ", special=False)], "same text"),
            (("added_tokens",), [added(6, "<|end|>")], "has the id 6, but the next free one is 5"),
            (("added_tokens",), [added(5, "x"), added(6, "y"), added(7, "z")], "room for 7"),
        ],
    )
    def test_contradictions(self, byte_level: Path, keys: tuple[str | int, ...], value: object, message: str):
        change(byte_level, *keys, value=value)
        with pytest.raises(CheckpointError, match=message):
            tokenizer_metadata(byte_level, {"vocab_size": 7})

    def test_text_that_is_not_unicode(self, byte_level: Path):
        content = (byte_level / "tokenizer.json").read_text(encoding="utf-8").replace("<|end|>", "\\ud800")
        (byte_level / "tokenizer.json").write_text(content, encoding="utf-8")
        with pytest.raises(CheckpointError, match="not valid Unicode"):
            tokenizer_metadata(byte_level, {})

    def test_wrong_kind_for_the_family(self, byte_level: Path):
        with pytest.raises(CheckpointError, match="models have one for SentencePiece"):
            tokenizer_metadata(byte_level, {}, style="gemma")
        write_json(byte_level / "tokenizer.json", MERGING)
        with pytest.raises(CheckpointError, match="models have one for byte-level BPE"):
            tokenizer_metadata(byte_level, {}, style="byte-level")


def test_a_vocabulary_of_150_000_takes_no_quadratic_time(tmp_path: Path, figure: Any):
    import time

    letters = [chr(code) for code in range(0x100, 0x500)]
    pairs = [(a, b) for a in letters[:400] for b in letters[:375]]
    vocabulary = {text: index for index, text in enumerate([*letters, *(a + b for a, b in pairs)])}
    model = {"type": "BPE", "vocab": vocabulary, "merges": [f"{a} {b}" for a, b in pairs]}
    write_json(tmp_path / "tokenizer.json", {**BYTE_LEVEL, "added_tokens": [], "model": model})
    started = time.process_time()
    tokenizer_metadata(tmp_path, {"vocab_size": 152_000})
    seconds = time.process_time() - started
    figure("vocabulary of 151 024 tokens, seconds", f"{seconds:.2f}")
    assert seconds < 20  # usually one; each token against each other would take many minutes
