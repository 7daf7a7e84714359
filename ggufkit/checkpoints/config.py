"""config.json as a mapping that remembers which keys were read, so that nothing in it is overlooked in silence."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ggufkit.checkpoints.folder import check_folder
from ggufkit.checkpoints.sentence_transformers import read_modules
from ggufkit.errors import CheckpointError

_MAXIMUM_BYTES = 16 * 2**20


def _integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


# What a value must be, and the keys of which that is true wherever we read them. A null is as good as no key.
_KINDS: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "a positive integer": (
        lambda value: _integer(value) and 0 < value < 2**31,
        (
            "vocab_size hidden_size intermediate_size moe_intermediate_size num_hidden_layers num_attention_heads"
            " num_key_value_heads num_experts_per_tok max_position_embeddings head_dim kv_lora_rank q_lora_rank"
            " qk_rope_head_dim qk_nope_head_dim v_head_dim n_routed_experts"
        ),
    ),
    "an integer from 0 up": (
        lambda value: _integer(value) and 0 <= value < 2**31,
        "num_local_experts n_shared_experts first_k_dense_replace n_group topk_group moe_layer_freq sliding_window",
    ),
    "a positive number": (
        # The limit is that of a 32-bit float, which GGUF stores.
        lambda value: (_integer(value) or isinstance(value, float)) and 0 < value < 3.4e38,
        (
            "rms_norm_eps rope_theta attn_logit_softcapping final_logit_softcapping query_pre_attn_scalar"
            " routed_scaling_factor"
        ),
    ),
    "true or false": (
        lambda value: isinstance(value, bool),
        "tie_word_embeddings use_sliding_window norm_topk_prob",
    ),
    "a name": (
        lambda value: isinstance(value, str),
        "hidden_act hidden_activation scoring_func topk_method",
    ),
    "a list": (lambda value: isinstance(value, list), "layer_types"),
}


# Keys that go by several names, over the years and the families. The first is the one that our specs use.
SPELLINGS: Mapping[str, Sequence[str]] = {
    "num_hidden_layers": ("n_layer", "n_layers", "num_layers"),
    "hidden_size": ("n_embd", "d_model"),
    "intermediate_size": ("n_inner", "d_ff", "ffn_hidden_size"),
    "num_attention_heads": ("n_head", "n_heads", "num_heads"),
    "num_key_value_heads": ("num_kv_heads", "n_kv_heads", "n_head_kv"),
    "max_position_embeddings": ("n_positions", "n_ctx", "max_seq_len", "seq_length"),
    "rms_norm_eps": ("norm_eps",),
    "layer_norm_eps": ("layer_norm_epsilon", "norm_epsilon"),
    "rope_theta": ("rotary_emb_base", "global_rope_theta"),
    "partial_rotary_factor": ("rotary_pct", "rope_pct"),
    "rope_local_base_freq": ("local_rope_theta", "swa_rope_theta"),
    "head_dim": ("d_kv", "attention_head_dim"),
    "num_experts": ("num_local_experts", "n_routed_experts", "moe_num_experts"),
    "hidden_act": ("hidden_activation", "activation_function", "activation"),
}


class Config(Mapping[str, Any]):
    """What a model's config.json says of its text model; every key that is looked up counts as read.

    A wrapper's config (a vision-language model's, say) holds that of its text model as `text_config` or under a name
    like it: the keys in there go before those around it.
    """

    def __init__(
        self,
        values: Mapping[str, Any],
        *,
        defaults: Mapping[str, Any] | None = None,
        spellings: Mapping[str, Sequence[str]] | None = None,
        derived: Mapping[str, Callable[[Mapping[str, Any]], Any]] | None = None,
    ) -> None:
        self.outer = values  # as the file has it, a wrapper's keys apart from its text model's
        self._text_key, inner = _text_config(values)
        given = {key: value for key, value in inner.items() if value is not None or key not in values}
        self._given = {**values, **given}
        self._values = {key: value for key, value in self._given.items() if value is not None}
        self._spellings = {**SPELLINGS, **(spellings or {})}
        self._derived = derived or {}
        self._read: set[str] = {self._text_key} if self._text_key else set()
        first = {other: key for key, others in self._spellings.items() for other in others}
        for spelled, value in (defaults or {}).items():
            key = spelled if spelled in self._spellings else first.get(spelled, spelled)
            if not any(spelling in self._given for spelling in (key, *self._spellings.get(key, ()))):
                self._values[key] = value

    def __getitem__(self, key: str) -> Any:
        if key in self._derived:
            return self._derived[key](self)
        for spelling in (key, *self._spellings.get(key, ())):
            if spelling in self._given:
                self._read.add(spelling)
                if spelling in self._values:
                    return self._values[spelling]
        return self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def completed(
        self,
        defaults: Mapping[str, Any],
        spellings: Mapping[str, Sequence[str]] | None = None,
        derived: Mapping[str, Callable[[Mapping[str, Any]], Any]] | None = None,
    ) -> "Config":
        """Return a config in which keys that are absent take these values; one that is null stays unset.

        `spellings` names other keys by which a key may be given, beside SPELLINGS. `derived` works out values from the
        others, under names of their own.
        """
        return Config(self.outer, defaults=defaults, spellings=spellings, derived=derived)

    @property
    def given(self) -> Mapping[str, Any]:
        """What the file says, without defaults; looking here counts as reading nothing."""
        return self._given

    @property
    def is_wrapper(self) -> bool:
        """Whether the model has more senses than text, or the config says that it holds a text model."""
        return self._text_key is not None or any(f"{part}_config" in self._given for part in ("vision", "audio"))

    def unread(self) -> list[str]:
        """List the keys of config.json that nobody looked at, in the order of the file."""
        return [key for key in self._values if key in self._given and key not in self._read]

    @property
    def architecture(self) -> str:
        """The Hugging Face class that the checkpoint names: `architectures[0]`, the text model's own if it has one.

        Raises:
            CheckpointError: it names none.
        """
        names = self.get("architectures")
        if not isinstance(names, list) or not names or not isinstance(names[0], str):
            raise CheckpointError('config.json names no architecture: expected "architectures": ["…ForCausalLM"]')
        return names[0]

    @property
    def model_type(self) -> str | None:
        """The Hugging Face name of the kind of model, which decides what absent keys mean."""
        name = self._given.get("model_type")
        return name if isinstance(name, str) else None


def _text_config(values: Mapping[str, Any]) -> tuple[str | None, Mapping[str, Any]]:
    """Find the text model's config in a wrapper's: its key, and what it holds; None and nothing when there is none."""
    for key in ("text_config", "llm_config", "lm_config", "language_config", "thinker_config", "lfm"):
        inner = values.get(key)
        if isinstance(inner, Mapping) and inner:
            deeper = _text_config(inner)[1]
            return key, {**inner, **deeper}
    return None, {}


def read_config(folder: Path) -> Config:
    """Read a checkpoint folder's config.json, and modules.json where it is a sentence-transformers folder.

    Raises:
        CheckpointError: config.json is missing, or one of them is malformed.
        UnsafeError: a file is a link that leads out of the folder.
    """
    if not folder.is_dir():
        if folder.exists():
            raise CheckpointError(f"not a checkpoint folder: {folder}", hint="give the folder that holds config.json")
        raise CheckpointError(f"no such folder: {folder}", hint="give the folder that holds config.json")
    check_folder(folder)
    path = folder / "config.json"
    if not path.is_file():
        raise CheckpointError(f"no config.json in {folder}", hint="give the folder that the model was downloaded to")
    return Config({**read_json_object(path), **read_modules(folder)})


def check_values(values: Mapping[str, Any]) -> None:
    """Refuse values of the wrong kind among the config keys that our specs read.

    Other architectures have other habits (one size per layer, say), so this is not part of reading.

    Raises:
        CheckpointError: naming the first key that is wrong, and what it should be.
    """
    for expected, (is_kind, keys) in _KINDS.items():
        for key in keys.split():
            value = values.get(key)
            if value is not None and not is_kind(value):
                raise CheckpointError(f"config.json: {key} is {value!r}, expected {expected}")
    heads, key_value_heads = values.get("num_attention_heads"), values.get("num_key_value_heads")
    if heads and key_value_heads and heads % key_value_heads:
        raise CheckpointError(
            f"config.json: num_key_value_heads ({key_value_heads}) does not divide num_attention_heads ({heads})"
        )


def read_json_object(path: Path, *, limit: int = _MAXIMUM_BYTES, hint: str = "download it again") -> dict[str, Any]:
    """Read a JSON file that must hold an object; a strange or too large file is a CheckpointError naming it.

    `hint` says what to do about one that is damaged.
    """
    try:
        if path.stat().st_size > limit:
            raise CheckpointError(f"{path} is too large for what it should hold ({path.stat().st_size:,} bytes)")
        value = json.loads(path.read_text(encoding="utf-8-sig"), parse_constant=_refuse_constant)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from error
    except RecursionError:
        raise CheckpointError(f"{path} is nested too deeply") from None
    except ValueError as error:
        raise CheckpointError(f"{path} is not valid JSON: {error}", hint=hint) from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} holds {type(value).__name__}, expected a JSON object", hint=hint)
    return value


def _refuse_constant(name: str) -> float:
    """Python writes infinity as a word, and released configs have it (time_step_limit); NaN is refused."""
    if name == "NaN":
        raise ValueError(f"{name} is not a JSON number")
    return float(name)
