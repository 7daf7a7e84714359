"""Profiles are found by model, machine and build, fill in what the command line left open, and may be wrong."""

import json
from pathlib import Path

import pytest
import tiny_model

from ggufkit.cli._engine_options import EngineChoices
from ggufkit.errors import InputError
from ggufkit.inference import profile
from ggufkit.inference.options import CacheType, EngineOptions, FlashAttention, LoadMode, LoraAdapter
from ggufkit.inference.profile import Profile, find_profile

pytestmark = pytest.mark.engine

SETTINGS = {"threads": 3, "threads_batch": 5, "micro_batch_size": 256, "flash_attention": FlashAttention.OFF}


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("GGUFKIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_profile_is_found_for_the_same_tensors_on_the_same_machine(tmp_path: Path, cache: Path) -> None:
    model = tiny_model.write(tmp_path / "a.gguf", seed=1)
    assert find_profile(model) is None
    place = profile.place(model)
    assert place.path.parent == cache / "profiles"
    Profile(settings=SETTINGS, model="a.gguf").save(place.path)
    found = find_profile(model)
    assert found is not None
    assert found.settings == SETTINGS
    assert isinstance(found.settings["flash_attention"], FlashAttention)
    fine_tune = tiny_model.write(tmp_path / "b.gguf", seed=2, template=None)
    assert find_profile(fine_tune) is not None
    other = tiny_model.saying(tmp_path / "c.gguf", "Hi")  # wider
    assert find_profile(other) is None
    assert find_profile(model, "none") is None
    assert find_profile(other, str(place.path)) is not None
    assert find_profile(tmp_path / "missing.gguf") is None


def test_another_machine_has_another_profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model.write(tmp_path / "a.gguf")
    Profile(settings=SETTINGS).save(profile.place(model).path)
    monkeypatch.setattr("ggufkit.llamacpp.cpu.usable_cores", lambda: 77)
    assert find_profile(model) is None


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, SETTINGS),
        ({"threads": 2}, {"threads": 2, "micro_batch_size": 256, "flash_attention": FlashAttention.OFF}),
        ({"flash_attention": FlashAttention.ON}, {**SETTINGS, "flash_attention": FlashAttention.ON}),
        ({"batch_size": 64}, {"batch_size": 64, **{k: v for k, v in SETTINGS.items() if k != "micro_batch_size"}}),
    ],
)
def test_what_is_given_comes_before_the_profile(given: dict[str, object], expected: dict[str, object]) -> None:
    assert Profile(settings=SETTINGS).fill_in(given) == expected


def test_a_profile_gives_way_where_quantized_values_and_plain_attention_meet() -> None:
    """llama.cpp refuses the two together, and the user named only one of them."""
    plain = Profile(settings={"flash_attention": FlashAttention.OFF, "threads": 3})
    assert plain.fill_in({"cache_type_v": CacheType.Q8_0}) == {"cache_type_v": CacheType.Q8_0, "threads": 3}
    assert plain.fill_in({"cache_type_v": CacheType.F32})["flash_attention"] is FlashAttention.OFF
    quantized = Profile(settings={"cache_type_k": CacheType.Q8_0, "cache_type_v": CacheType.Q8_0})
    assert quantized.fill_in({"flash_attention": FlashAttention.OFF}) == {
        "cache_type_k": CacheType.Q8_0,
        "flash_attention": FlashAttention.OFF,
    }
    assert quantized.fill_in({"flash_attention": FlashAttention.ON})["cache_type_v"] is CacheType.Q8_0


def test_options_of_the_command_line_the_profile_and_adapters_come_together(tmp_path: Path) -> None:
    model = tiny_model.write(tmp_path / "a.gguf")
    Profile(settings=SETTINGS).save(profile.place(model).path)
    assert EngineChoices(threads_batch=2).options(model) == {**SETTINGS, "threads_batch": 2}
    assert EngineChoices(profile="none", load_mode=LoadMode.NONE).options(model) == {"load_mode": LoadMode.NONE}
    named = ["a.gguf", "b:c.gguf:0.5", "d.gguf:-1e-2"]
    adapters = EngineChoices(profile="none", lora=named).options(model)["adapters"]
    assert adapters == (
        LoraAdapter(Path("a.gguf")),
        LoraAdapter(Path("b:c.gguf"), 0.5),
        LoraAdapter(Path("d.gguf"), -0.01),
    )
    EngineOptions(**EngineChoices().options(model))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[]", "not a profile"),
        ('{"kind": "ggufkit profile", "schema_version": 9}', "another version"),
        ('{"kind": "ggufkit profile", "schema_version": 1}', "does not make sense"),
        (
            '{"kind": "ggufkit profile", "schema_version": 1, "settings": {"adapters": []}}',
            "unknown settings: adapters",
        ),
        ('{"kind": "ggufkit profile", "schema_version": 1, "settings": {"threads": 0}}', "threads must be positive"),
        ('{"kind": "ggufkit profile", "schema_version": 1, "settings": {"threads": "2"}}', "not a whole number"),
        ('{"kind": "ggufkit profile", "schema_version": 1, "settings": {"load_mode": "fast"}}', "fast"),
        ('{"kind": "ggufkit profile", "schema_version": 1, "settings": [1]}', "does not make sense"),
    ],
)
def test_a_profile_that_makes_no_sense_is_refused_by_name_and_passed_over_by_itself(
    tmp_path: Path, text: str, message: str
) -> None:
    model = tiny_model.write(tmp_path / "a.gguf")
    path = profile.place(model).path
    path.parent.mkdir(parents=True)
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        find_profile(model, str(path))
    assert find_profile(model) is None


def test_what_is_saved_is_one_json_document(tmp_path: Path) -> None:
    Profile(settings=SETTINGS, model="a.gguf", machine="this one").save(tmp_path / "new" / "p.json")
    document = json.loads((tmp_path / "new" / "p.json").read_text())
    assert document["schema_version"] == 1
    assert document["settings"] == {**SETTINGS, "flash_attention": "off"}
