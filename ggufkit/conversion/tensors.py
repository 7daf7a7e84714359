"""Match a checkpoint's tensors to a spec's rules: every one is mapped or dropped on purpose, and none is missing."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from gguf import GGMLQuantizationType

from ggufkit.architectures import ArchSpec, Op, Rule, Shape, Stack, Twice, names, tensors
from ggufkit.architectures import shape as shape_by
from ggufkit.checkpoints import Config, DequantizedTensor, StoredTensor
from ggufkit.checkpoints.tensors import BUFFERS
from ggufkit.counting import counted
from ggufkit.errors import CheckpointError, UnmappedTensorError
from ggufkit.gguf_file.writer import block_size

_WEIGHTS = {"F32", "F16", "BF16", "F64"}
_TARGET_BLOCK = re.compile(r"(?:enc\.|dec\.)?blk\.(\d+)\.")


@dataclass(frozen=True, slots=True)
class Draft:
    """A step whose targets have no place in the file yet."""

    sources: tuple[StoredTensor, ...]
    op: Op
    targets: tuple[tuple[str, Shape], ...]


@dataclass(frozen=True, slots=True)
class _Pattern:
    """One source path of a rule; `place` is its number where several feed the rule."""

    rule: Rule | None
    sources: tuple[str, ...]
    place: int
    matcher: re.Pattern[str]


@dataclass(frozen=True, slots=True)
class _Group:
    """What one rule makes one step of: usually one tensor, or one per expert, or one per source."""

    sources: tuple[str, ...]
    block: str
    suffix: str

    def __str__(self) -> str:
        return " + ".join(source.format(b=self.block, e="*") for source in self.sources) + self.suffix


def match_tensors(spec: ArchSpec, config: Config, stored: Mapping[str, StoredTensor]) -> tuple[list[Draft], list[str]]:
    """Match every tensor to one rule; refuse to guess about any that is left, or is missing.

    The drafts come in the order in which their sources lie on the disk; the second list says what was left out because
    it belongs to a wrapper's other senses.

    Raises:
        UnmappedTensorError: no rule matches a tensor.
        CheckpointError: a tensor is missing, has a wrong shape, or is of a type that holds no weights.
    """
    patterns = list(_patterns(spec))
    groups: dict[_Group, dict[int, StoredTensor]] = defaultdict(dict)
    rules: dict[_Group, Rule] = {}
    left_out: Counter[str] = Counter()
    copied: set[_Group] = set()
    for name, tensor in stored.items():
        if BUFFERS.search(name):
            continue
        path = names.stripped(name)
        original = next((spec.copies[copy] for copy in spec.copies if path in (copy, f"{copy}.weight")), None)
        found = _match(path if original is None else f"{original}.weight", patterns)
        if found is None:
            if config.is_wrapper and (sense := names.other_sense(name)):
                left_out[sense] += 1
                continue
            raise UnmappedTensorError(
                f"{spec.name}: no rule for tensor {name!r}", hint="ggufkit convert --converter llama.cpp may know it"
            )
        rule, group, place = found
        if original is not None:
            copied.add(group)
        if rule is None or (group in copied and place in groups[group]):
            continue
        if spec.drops_tied_output and rule.targets == ("output?",) and _is_tied(config):
            continue
        if place in groups[group]:
            raise CheckpointError(f"tensors {groups[group][place].name!r} and {name!r} are the same part of the model")
        groups[group][place] = tensor
        rules[group] = rule
    drafts = [_draft(rules[group], group, members, config) for group, members in groups.items()]
    if spec.needs_output and _is_tied(config):
        drafts = _with_output(drafts)
    quantized = [name for name, tensor in stored.items() if isinstance(tensor, DequantizedTensor)]
    drafts = _checked(spec, config, drafts, {f"{name.removesuffix('weight')}bias" for name in quantized})
    remarks = [
        f"left out {counted(count, 'tensor')} of {sense}: only the text model is converted"
        for sense, count in left_out.items()
    ]
    return sorted(drafts, key=lambda draft: draft.sources[0].position), remarks


def tensor_type(spec: ArchSpec, name: str, shape: Shape, wanted: GGMLQuantizationType) -> GGMLQuantizationType:
    """Choose a tensor's type by llama.cpp's rules (conversion/base.py: prepare_tensors), and the spec's own."""
    bare = tensors.bare(name)
    if own := spec.types.get(bare):
        wanted = GGMLQuantizationType[own]
    elif len(shape) <= 1 or not name.endswith(".weight") or name.endswith("_norm.weight") or bare in tensors.ALWAYS_F32:
        return GGMLQuantizationType.F32
    block, _ = block_size(wanted)
    return GGMLQuantizationType.F16 if shape[-1] % block else wanted


def _patterns(spec: ArchSpec) -> Iterator[_Pattern]:
    table = {source: entry for part in spec.tensors for source, entry in part.items()}
    for key, entry in table.items():
        sources = (key,) if isinstance(key, str) else key
        rule = Rule((entry,)) if isinstance(entry, str) else entry
        for place, source in enumerate(sources):
            body = re.escape(names.stripped(source))
            body = body.replace(r"\{b\}", r"(?P<b>\d+)").replace(r"\{e\}", r"(?P<e>\d+)")
            yield _Pattern(rule, sources, place, re.compile(body + r"(?P<suffix>(?:\.weight|\.bias)?)"))


def _match(name: str, patterns: Sequence[_Pattern]) -> tuple[Rule | None, _Group, int] | None:
    for pattern in patterns:
        if found := pattern.matcher.fullmatch(name):
            holes = found.groupdict()
            place = pattern.place if holes.get("e") is None else int(holes["e"])
            return pattern.rule, _Group(pattern.sources, holes.get("b") or "", holes["suffix"]), place
    return None


def _draft(rule: Rule, group: _Group, members: Mapping[int, StoredTensor], config: Config) -> Draft:
    is_experts = "{e}" in group.sources[0]
    count = config[rule.op.count if isinstance(rule.op, Stack) else "experts"] if is_experts else len(group.sources)
    if missing := sorted(set(range(count)) - set(members)):
        what = f"no expert {missing}" if is_experts else f"no {group.sources[missing[0]].format(b=group.block)}"
        raise CheckpointError(f"{group}: {what} in the checkpoint")
    if len(members) > count:
        raise CheckpointError(f"{group}: more than {count} experts")
    sources = tuple(members[index] for index in sorted(members))
    for source in sources:
        if source.dtype not in _WEIGHTS:
            raise CheckpointError(
                f"tensor {source.name!r} is of type {source.dtype}, expected one of {', '.join(sorted(_WEIGHTS))}",
                hint="the checkpoint is quantized; try --converter llama.cpp",
            )
        if not source.size:
            raise CheckpointError(f"tensor {source.name!r} is empty: shape {source.shape}")
    try:
        shapes = rule.op.shapes([source.shape for source in sources], config)
    except CheckpointError as error:
        raise CheckpointError(f"tensor {sources[0].name!r}: {error}") from None
    block = str(int(group.block) + config[rule.after]) if rule.after else group.block
    targets = tuple(target.removesuffix("?").format(b=block) + group.suffix for target in rule.targets)
    return Draft(sources, rule.op, tuple(zip(targets, shapes, strict=True)))


def _checked(spec: ArchSpec, config: Config, drafts: Sequence[Draft], biases: AbstractSet[str]) -> list[Draft]:
    """Require what llama.cpp will look for, and refuse what it would not load, before a byte is written.

    Left out are biases of zeros that it would not load, beside weights that others quantized (`biases` are their
    names): AutoGPTQ gave one to every such layer, whatever the model.
    """
    made = {name for draft in drafts for name, _ in draft.targets} | set(spec.extra_tensors(config))
    blocks = config["blocks"] if any(".nextn." in name for name in made) else config["layers"]
    required, optional = _expected(spec, config, blocks)
    for alternatives in required:
        if made.isdisjoint(alternatives):
            raise CheckpointError(
                f"no tensor of the checkpoint becomes {' or '.join(filter(_has_suffix, alternatives))}",
                hint="a shard may be missing",
            )
    if "output.weight" in optional and "output.weight" not in made and not _is_tied(config):
        raise CheckpointError("the checkpoint has no lm_head, and its config does not tie it to the embeddings")
    allowed = {name for alternatives in required for name in alternatives} | optional
    origins: dict[str, str] = {}
    loaded = [draft for draft in drafts if draft.targets[0][0] in allowed or not _is_idle(draft, biases)]
    for draft in loaded:
        source = draft.sources[0].name
        for name, shape in draft.targets:
            if (other := origins.setdefault(name, source)) != source:
                raise CheckpointError(f"tensors {other!r} and {source!r} both become {name}")
            block = int(found[1]) if (found := _TARGET_BLOCK.match(name)) else None
            if block is not None and block >= _blocks_of(name, config, blocks):
                raise CheckpointError(f"{name} is beyond config.json's {config['layers']} layers (num_hidden_layers)")
            if name not in allowed:
                raise UnmappedTensorError(f"tensor {source!r} becomes {name}, which llama.cpp's {spec.name} has not")
            formulas = tensors.weight_shape(name, spec.shapes)
            if formulas is None:
                raise UnmappedTensorError(f"{spec.name}: the shape of {name} is not known")
            if shape != (expected := shape_by(config, formulas, block)):
                raise CheckpointError(
                    f"tensor {source!r} becomes {name} of shape {shape}, but config.json says {expected}"
                )
    return loaded


def _is_idle(draft: Draft, biases: AbstractSet[str]) -> bool:
    """Tell whether a step is of such biases alone, and they add nothing."""
    if any(source.name not in biases for source in draft.sources):
        return False
    for source in draft.sources:
        held = bytearray(source.size)
        source.read_into(memoryview(held))
        if any(held):
            return False
    return True


def _is_tied(config: Config) -> bool:
    around = config.outer.get("tie_word_embeddings", config.is_wrapper)  # what transformers takes for a wrapper's
    return bool(config.get("tie_word_embeddings") or around) or config.architecture.endswith("Model")


def _with_output(drafts: Sequence[Draft]) -> list[Draft]:
    """Have a tied embedding become the output too, unless the checkpoint has one all the same."""
    if any(name == "output.weight" for draft in drafts for name, _ in draft.targets):
        return list(drafts)
    return [
        Draft(draft.sources, Twice(), (draft.targets[0], ("output.weight", draft.targets[0][1])))
        if draft.targets[0][0] == "token_embd.weight"
        else draft
        for draft in drafts
    ]


def _has_suffix(name: str) -> bool:
    return name.endswith((".weight", ".bias"))


def _expected(spec: ArchSpec, config: Config, blocks: int) -> tuple[list[tuple[str, ...]], set[str]]:
    """List what must be there, each as names of which one will do, and what may be there."""
    required: list[tuple[str, ...]] = []
    optional: set[str] = set()
    most = max(blocks, _blocks_of("dec.", config, blocks))
    trunk = ["trunk" if block < config["layers"] else "prediction" for block in range(most)]
    kinds = [[*spec.kinds(config, block).split(), trunk[block]] for block in range(most)]
    either = {name for names_ in spec.either for name in names_}
    for target in sorted(written_targets(spec)):
        path, is_optional = target.removesuffix("?"), target.endswith("?")
        for block in range(_blocks_of(path, config, blocks)) if "{b}" in path else [None]:
            if block is not None and _is_elsewhere(spec, path, kinds[block]):
                continue
            name = path.format(b=block)
            suffixed = (name,) if _has_suffix(name) else (name, f"{name}.weight")
            if is_optional or tensors.bare(name) in either:
                optional.update(suffixed)
            else:
                required.append(suffixed)
    for alternatives in spec.either:
        path = f"blk.{{b}}.{alternatives[0]}"
        where = [block for block in range(blocks) if not _is_elsewhere(spec, path, kinds[block])]
        required += [tuple(f"blk.{block}.{name}.weight" for name in alternatives) for block in where]
    return required, optional


def _blocks_of(path: str, config: Config, blocks: int) -> int:
    """Count the blocks of the stack that a target is in: a decoder beside an encoder has a number of its own."""
    return int(config.get("decoder_layers") or blocks) if path.startswith("dec.") else blocks


def written_targets(spec: ArchSpec) -> set[str]:
    """Give every GGUF path that a spec's rules write, `{b}` for the block: biases with suffix, "?" where optional."""
    table = {source: entry for part in spec.tensors for source, entry in part.items()}
    paths: set[str] = set()
    for entry in table.values():
        paths.update(entry.targets if isinstance(entry, Rule) else () if entry is None else (entry,))
    for bias in spec.biases.split():
        name = bias.removesuffix("?")
        path = f"blk.{{b}}.{name}"
        path = path if {path, f"{path}?"} & paths else name
        paths.add(f"{path}.bias{'?' if bias.endswith('?') or f'{path}?' in paths else ''}")
    # what some rule makes for certain is required, though another makes it optionally
    return {path for path in paths if path.removesuffix("?") == path or path.removesuffix("?") not in paths}


def _is_elsewhere(spec: ArchSpec, path: str, kinds: Sequence[str]) -> bool:
    """Tell whether a block of these kinds has no such tensor."""
    bare = tensors.bare(path)
    kind = spec.kind_of.get(bare, tensors.KINDS.get(bare, ""))
    return tensors.OTHER_KIND.get(kind, "") in kinds and kind not in kinds
