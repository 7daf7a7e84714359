"""What a model says of itself: lies that llama.cpp would die of are found in its headers; good models have none."""

from pathlib import Path

import one_fault
import pytest
import tiny_gguf
import tiny_model

from ggufkit.errors import GgufFileError
from ggufkit.findings import Severity
from ggufkit.fitness import check_headers, refuse_unfit
from ggufkit.gguf_file.reader import read_header
from ggufkit.llamacpp.find import find_source

DEADLY = (
    "architecture gone",
    "architecture empty",
    "architecture a number",
    "architecture a list",
    "architecture with a control byte",
    "block_count 0",
    "block_count 513",
    "block_count 4294967295",
    "block_count a string",
    "block_count an empty list",
    "context_length 0",
    "context_length 4294967295",
    "embedding_length 0",
    "embedding_length a float",
    "attention.head_count 0",
    "attention.head_count 5",
    "attention.head_count a list of zeros",
    "attention.head_count a short list",
    "attention.head_count_kv 0",
    "attention.head_count_kv 3",
    "attention.layer_norm_rms_epsilon nan",
    "attention.layer_norm_rms_epsilon -1.0",
    "attention.layer_norm_rms_epsilon signed",
    "rope.freq_base inf",
    "rope scaling 'wrong'",
    "expert_count 4",
    "expert_count 1025",
    "expert_used_count 1",
    "expert_group_count 4",
    "nextn_predict_layers 5",
    "tokens empty",
    "tokens numbers",
    "tokens a string",
    "token twice",
    "tokens one less",
    "tokens one more",
    "types short",
    "types long",
    "types floats",
    "types a number",
    "scores short",
    "scores strings",
    "merges numbers",
    "eos 2147483647",
    "bos a string",
    "bos negative",
    "matrix of type I32",
    "matrix of type F64",
    "matrix of type Q8_1",
    "embedding of type I8",
    "norm of type F16",
    "norm of type Q8_0",
)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> one_fault.Model:
    return one_fault.Model.read(tiny_model.write(tmp_path_factory.mktemp("good") / "model.gguf"))


@pytest.fixture(scope="module")
def faults(good: one_fault.Model) -> dict[str, one_fault.Fault]:
    return one_fault.faults_of(good)


@pytest.mark.parametrize("name", DEADLY)
def test_what_llama_cpp_would_die_of_is_refused_with_the_place(
    good: one_fault.Model, faults: dict[str, one_fault.Fault], tmp_path: Path, name: str
):
    model = good.copy()
    faults[name](model)
    path = model.write(tmp_path / "model.gguf")
    with pytest.raises(GgufFileError) as caught:
        refuse_unfit([read_header(path)])
    assert str(caught.value).startswith(f"{path}: ")
    assert len(str(caught.value)) < len(str(path)) + 250
    assert str(caught.value).isprintable()


def test_whatever_is_wrong_is_a_finding_and_never_an_exception(
    good: one_fault.Model, faults: dict[str, one_fault.Fault], tmp_path: Path
):
    for fault in faults.values():
        model = good.copy()
        try:
            fault(model)
        except (KeyError, ValueError, IndexError):  # this model has no such thing
            continue
        try:
            header = read_header(model.write(tmp_path / "model.gguf"))
        except GgufFileError:
            continue
        assert all(finding.what and finding.where for finding in check_headers([header]))


def test_good_models_have_nothing_wrong(tmp_path: Path):
    experts, matrix = tiny_gguf.write_experts(tmp_path / "experts.gguf", tmp_path / "matrix.gguf")
    several = (tiny_model.write(tmp_path / "a.gguf"), tiny_gguf.write_model(tmp_path / "b.gguf"), experts, matrix)
    for path in several:
        assert list(check_headers([read_header(path)])) == []


@pytest.mark.engine
def test_the_vocabularies_that_llama_cpp_tests_itself_with_have_nothing_wrong():
    paths = sorted((find_source() / "models").glob("ggml-vocab-*.gguf"), key=lambda path: path.stat().st_size)
    assert len(paths) > 10
    for path in paths[:-3]:  # the largest take a second each
        assert [f for f in check_headers([read_header(path)]) if f.severity >= Severity.UNFIT] == [], path


@pytest.mark.parametrize("role", ["padding", "mask"])
def test_an_id_that_every_program_passes_over_is_no_reason_to_refuse(tmp_path: Path, role: str):
    path = tiny_model.write(tmp_path / "m.gguf", overrides={f"tokenizer.ggml.{role}_token_id": 9999})
    [finding] = check_headers([read_header(path)])
    assert (finding.severity, finding.where) == (Severity.WARNING, f"tokenizer.ggml.{role}_token_id")


def test_a_token_that_there_is_not_may_be_written_as_llama_cpp_writes_it(tmp_path: Path):
    path = tiny_model.write(tmp_path / "m.gguf", overrides={"tokenizer.ggml.eot_token_id": 2**32 - 1})
    assert list(check_headers([read_header(path)])) == []


def test_blocks_without_attention_need_no_heads(good: one_fault.Model, tmp_path: Path):
    model = good.copy()
    del model.tensors["blk.1.attn_q.weight"]
    model.entries["llama.attention.head_count"] = (
        one_fault.ARR,
        one_fault.Values(one_fault.U32, [model.entries["llama.attention.head_count"][1], 0]),
    )
    assert list(check_headers([read_header(model.write(tmp_path / "m.gguf"))])) == []


def test_a_byte_without_a_token_is_found_where_bytes_spell_what_has_none(good: one_fault.Model, tmp_path: Path):
    model = good.copy()
    model.entries["tokenizer.ggml.model"] = (one_fault.STR, "llama")
    tokens = model.entries["tokenizer.ggml.tokens"][1].items
    [finding] = check_headers([read_header(model.write(tmp_path / "none.gguf"))])
    assert finding.severity is Severity.WARNING  # such models exist, and read what their tokens spell
    tokens[:0x80] = [f"<0x{byte:02X}>" for byte in range(0x80)]
    [finding] = check_headers([read_header(model.write(tmp_path / "some.gguf"))])
    assert finding.severity is Severity.UNFIT
    assert "byte 0x80" in finding.what


def test_bytes_that_llama_cpps_rwkv_tokenizer_would_never_get_past_are_found(good: one_fault.Model, tmp_path: Path):
    """Seen with llama.cpp: its memory grows without end where a token's first byte is no token by itself."""
    model = good.copy()
    model.entries["tokenizer.ggml.model"] = (one_fault.STR, "rwkv")
    tokens = model.entries["tokenizer.ggml.tokens"][1].items
    spelled = {0x09: r"\t", 0x0A: r"\n", 0x0D: r"\r", 0x5C: r"\\", 0x27: r"\'"}
    printed = {byte: chr(byte) for byte in range(0x20, 0x7F)}
    alone = [{**printed, **spelled}.get(byte, rf"\x{byte:02x}") for byte in range(256)]
    more = [r"\n\n", "日本", r"\xe6\x97", r"\\t", "it", *(f"a{number}" for number in range(len(tokens)))]

    def refused(pieces: list[str]) -> list[str]:
        tokens[:] = (pieces + more)[: len(tokens)]
        found = check_headers([read_header(model.write(tmp_path / "m.gguf"))])
        return [finding.what for finding in found if finding.severity is Severity.UNFIT]

    assert refused(alone) == []
    for byte in (0x0A, 0xE6, 0x5C, 0x69):
        [what] = refused(alone[:byte] + alone[byte + 1 :])
        assert f"begin with byte 0x{byte:02X}, but none for it alone" in what


def test_blocks_of_linear_attention_say_so_by_having_no_heads_of_keys(good: one_fault.Model, tmp_path: Path):
    model = good.copy()
    model.entries["llama.attention.head_count_kv"] = (one_fault.ARR, one_fault.Values(one_fault.U32, [0, 2]))
    refused = [finding.where for finding in check_headers([read_header(model.write(tmp_path / "plain.gguf"))])]
    assert refused == ["llama.attention.head_count_kv"]
    model.tensors["blk.0.ssm_conv1d_k.weight"] = model.tensors["blk.0.attn_norm.weight"]
    assert list(check_headers([read_header(model.write(tmp_path / "linear.gguf"))])) == []


@pytest.mark.parametrize(("kind", "role"), [("bert", "eos"), ("rwkv", "bos")])
def test_what_a_tokenizer_never_adds_need_not_be_there(good: one_fault.Model, tmp_path: Path, kind: str, role: str):
    model = good.copy()
    model.entries["tokenizer.ggml.model"] = (one_fault.STR, kind)
    model.entries[f"tokenizer.ggml.add_{role}_token"] = (one_fault.BOOL, True)
    model.entries.pop(f"tokenizer.ggml.{role}_token_id", None)
    found = check_headers([read_header(model.write(tmp_path / "m.gguf"))])
    assert not [finding for finding in found if f"add_{role}_token" in finding.where]


def test_a_control_vector_is_no_model_and_nothing_is_wrong_with_it(tmp_path: Path):
    vector = one_fault.Model({"general.architecture": (one_fault.STR, "controlvector")})
    vector.tensors["direction.1"] = one_fault.Weights((32,), 0, bytes(128))
    assert list(check_headers([read_header(vector.write(tmp_path / "v.gguf"))])) == []
