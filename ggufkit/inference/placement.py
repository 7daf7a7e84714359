"""Where the weights of a model go: what was asked for, and for `-ngl auto` what fits, decided before it is loaded."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ggufkit.errors import LlamaCppError, MissingDependencyError, UsageError
from ggufkit.gguf_file.parts import read_parts
from ggufkit.gguf_file.reader import GgufHeader
from ggufkit.inference import fitting
from ggufkit.inference.fitting import Choice, Device, Kind, Share, Sizes
from ggufkit.inference.model_file import cache_bytes, context_tokens
from ggufkit.inference.options import EngineOptions, SplitMode, TensorOverride
from ggufkit.llamacpp import cpu, devices, find, memory, rpc

_BLOCK = re.compile(r"^blk\.(\d+)\.")
_EXPERTS = re.compile(r"\.ffn_(up|down|gate|gate_up)_(ch|)exps")
_INPUT = re.compile(r"^(token_embd|per_layer_token_embd|position_embd|token_types|token_embd_norm)\b")
_OUTPUT = r"^output\.weight$"
_TIED_OUTPUT = r"^token_embd\.weight$"
_GUESSED_COMPUTE = 512 << 20
_BACKENDS_WITHOUT_MEMORY = {"base", "cpu", "rpc", "blas"}


@dataclass(frozen=True, slots=True)
class Placement:
    """Options in which nothing is left to chance, what each device will hold by them, and what to tell a person.

    `on_cpu`: nothing but this machine's CPU computes, for llama.cpp sees no other device.
    """

    options: EngineOptions
    shares: tuple[Share, ...] = ()
    warnings: tuple[str, ...] = ()
    on_cpu: bool = False

    @property
    def lines(self) -> list[str]:
        """Say what went where and what it costs; nothing where all is with the CPU."""
        if not self.shares:
            return []
        return [_line(share) for share in self.shares] + _costs(self.shares)


def experts_with_cpu(block: int) -> str:
    """Return the pattern of the expert weights of one block, as llama.cpp's --n-cpu-moe has it."""
    return rf"blk\.{block}\.ffn_(up|down|gate|gate_up)_(ch|)exps"


def resolve(path: Path, header: GgufHeader, options: EngineOptions, slots: int = 1) -> Placement:
    """Decide about a model.

    Args:
        path: the file; of a split model, the first.
        header: its header.
        options: what was asked for.
        slots: how many contexts of the size in the options there will be.

    Raises:
        UsageError: the options name devices or tensors that there are not.
        WorkerError: a worker cannot be used.
    """
    if options.vocabulary_only:
        return Placement(options)
    _check_overrides(path, options)
    found = _devices(options)
    if not found:
        return Placement(replace(options, gpu_layers=0), warnings=_without_devices(options), on_cpu=True)
    if options.split_mode in {SplitMode.ROW, SplitMode.TENSOR} or options.devices is not None:
        return Placement(options)  # each device holds a part of every layer, or the caller knows better
    here = Device("CPU", Kind.CPU, cpu.available_memory(), cpu.available_memory(), "CPU")
    options = replace(options, tensor_overrides=_with_names(options.tensor_overrides, found))
    if options.split_mode is SplitMode.NONE:
        if options.main_gpu >= len(found):
            raise UsageError(f"--main-gpu {options.main_gpu}: there are {len(found)} devices, counted from 0")
        chosen = [found[options.main_gpu]]
    else:
        chosen = found
    sizes = _sizes(path, header, options, slots)
    choice = _choice(sizes, here, chosen, options)
    shares = tuple(fitting.shares(sizes, here, chosen, choice))
    overrides = options.tensor_overrides
    overrides += tuple(TensorOverride(experts_with_cpu(block), "CPU") for block in range(choice.experts_with_cpu))
    if choice.output_with_cpu:  # its logits are long: better what they are made from crosses the network
        overrides += (TensorOverride(_OUTPUT, "CPU"), TensorOverride(_TIED_OUTPUT, "CPU"))
    decided = replace(options, gpu_layers=choice.gpu_layers, tensor_overrides=overrides)
    if options.split_mode is SplitMode.LAYER:
        decided = replace(decided, tensor_split=tuple(map(float, choice.counts)) if choice.gpu_layers else ())
    short = tuple(
        f"{share.device.name} has {_size(share.device.memory_free)} free and would hold {_size(share.needed)}"
        for share in shares
        if not share.fits
    )
    return Placement(decided, shares, short)


def _choice(sizes: Sizes, here: Device, chosen: Sequence[Device], options: EngineOptions) -> Choice:
    if options.gpu_layers == "auto" and not options.tensor_split:
        return fitting.fit(sizes, here, chosen)
    if options.gpu_layers == "auto":
        layers = fitting.fit(sizes, here, chosen).gpu_layers
    else:
        layers = sizes.layers if options.gpu_layers == "all" else min(options.gpu_layers, sizes.layers)
    proportions = options.tensor_split or [fitting.capacity(device, sizes.compute) for device in chosen]
    if len(proportions) > len(chosen):
        names = ", ".join(device.name for device in chosen)
        raise UsageError(f"--tensor-split has {len(proportions)} numbers, but there are {len(chosen)} devices: {names}")
    padded = [*proportions, *[0.0] * (len(chosen) - len(proportions))]
    return Choice(fitting.split_counts(layers, padded if sum(padded) else [1.0] * len(chosen)))


def is_on_cpu(options: EngineOptions) -> bool:
    """Tell whether nothing but this machine's CPU will compute. Raises WorkerError: a worker cannot be used."""
    return not _devices(options)


def _devices(options: EngineOptions) -> list[Device]:
    """Return what llama.cpp will see, in its order: workers as they were named, then this machine's GPUs."""
    found = []
    for worker in rpc.check(rpc.endpoints(options.rpc_servers)):
        for index, device in enumerate(worker.devices):
            name = str(worker.endpoint) + (f"/{index}" if len(worker.devices) > 1 else "")
            buffer_type = f"RPC{index}[{worker.endpoint}]"
            found.append(Device(name, Kind.WORKER, device.memory_free, device.memory_total, buffer_type))
    if _may_have_gpus():
        answer = devices.ask(find.find()).devices
        gpus = [each for each in answer if each.kind == "gpu"] or [
            each for each in answer if each.kind == "integrated gpu"
        ]
        found += [Device(each.name, Kind.GPU, each.memory_free, each.memory_total, each.name) for each in gpus]
    return found


def _may_have_gpus() -> bool:
    """Look whether the build has a backend that could have a device; asking it takes a tenth of a second."""
    folder = find.find().lib
    names = {path.name.split(".")[0].removeprefix("libggml-") for path in folder.glob("libggml-*")}
    return bool(names - _BACKENDS_WITHOUT_MEMORY)


def _without_devices(options: EngineOptions) -> tuple[str, ...]:
    wanted = [
        name
        for name, given in (
            ("-ngl", options.gpu_layers not in {"auto", 0}),
            ("--tensor-split", bool(options.tensor_split)),
            ("--main-gpu", options.main_gpu > 0),
        )
        if given
    ]
    if not wanted:
        return ()
    verb = "has" if len(wanted) == 1 else "have"
    remedy = "`ggufkit setup --cuda`, --vulkan, --rocm or --metal makes one that may"
    return (f"{' and '.join(wanted)} {verb} no effect: this build of llama.cpp sees no GPU ({remedy})",)


def _check_overrides(path: Path, options: EngineOptions) -> None:
    if not options.tensor_overrides:
        return
    names = [tensor.name for part in read_parts(path) for tensor in part.tensors]
    for override in options.tensor_overrides:
        if not any(re.search(override.pattern, name) for name in names):
            experts = override.pattern.startswith(r"blk\.") and "exps" in override.pattern
            raise UsageError(
                f"no tensor of {path.name} has a name like {override.pattern}"
                + (": the model is no mixture of experts" if experts and not any(map(_EXPERTS.search, names)) else ""),
                hint=f"ggufkit inspect {path} --tensors shows their names",
            )


def _with_names(overrides: Sequence[TensorOverride], found: Sequence[Device]) -> tuple[TensorOverride, ...]:
    """Let workers be named in overrides as the user knows them, for their buffer types have odd names."""
    known = {device.name: device.buffer_type for device in found}
    return tuple(replace(each, buffer_type=known.get(each.buffer_type, each.buffer_type)) for each in overrides)


def _sizes(path: Path, header: GgufHeader, options: EngineOptions, slots: int) -> Sizes:
    """Read the sizes of all weights, and ask libllama about caches and buffers."""
    values = header.metadata
    architecture = values.get("general.architecture")
    blocks = values.get(f"{architecture}.block_count", 0)
    count = blocks if isinstance(blocks, int) else 0
    weights, experts, rest = [0] * count, [0] * count, {"input": 0, "output": 0}
    names = set()
    patterns = [(re.compile(each.pattern), each.buffer_type) for each in options.tensor_overrides]
    for tensor in (tensor for part in read_parts(path) for tensor in part.tensors):
        names.add(tensor.name)
        place = _BLOCK.match(tensor.name)
        # The first pattern counts; what is sent to other devices than the CPU is counted to its block all the same.
        if next((device for pattern, device in patterns if pattern.search(tensor.name)), "") == "CPU":
            rest["input"] += tensor.size
        elif place and int(place[1]) < count:
            weights[int(place[1])] += tensor.size
            experts[int(place[1])] += tensor.size if _EXPERTS.search(tensor.name) else 0
        else:
            rest["input" if _INPUT.match(tensor.name) else "output"] += tensor.size
    if "output.weight" not in names:  # tied: the device of the output gets a copy of the embeddings
        rest["output"] += sum(tensor.size for tensor in header.tensors if tensor.name == "token_embd.weight")
    cache, compute = _buffers(path, header, options, slots)
    heads = values.get(f"{architecture}.attention.head_count_kv", 1)
    parts = [each if isinstance(each, int) else 0 for each in heads] if isinstance(heads, list) else [1] * count
    whole = max(1, sum(parts[:count]))
    per_block = [cache * part // whole for part in [*parts, *[1] * count][:count]]
    return Sizes(
        weights=tuple(weights),
        experts=tuple(experts),
        cache=tuple(per_block),
        input=rest["input"],
        output=rest["output"],
        compute=compute,
    )


def _buffers(path: Path, header: GgufHeader, options: EngineOptions, slots: int) -> tuple[int, int]:
    """Ask libllama for the bytes of caches (with states) and of the compute buffer; estimate where it cannot say."""
    context = slots * context_tokens(header, options.context_size)
    setting = memory.Setting(
        context,
        options.cache_type_k.value,
        options.cache_type_v.value,
        options.flash_attention.value,
        options.batch_size,
        options.micro_batch_size,
    )
    try:
        caches = memory.ask(path, [setting], []).settings[0]
    except (LlamaCppError, MissingDependencyError):
        return cache_bytes(header, context, options.cache_type_k, options.cache_type_v), _GUESSED_COMPUTE
    return caches.cache + caches.state, caches.compute


def _line(share: Share) -> str:
    parts = []
    if share.end > share.first:
        last = share.end - 1
        parts.append(f"blocks {share.first} to {last}" if last > share.first else f"block {share.first}")
    if share.has_output:
        parts.append("output")
    if share.experts_of_others:
        parts.append("experts of other blocks")
    free = _size(share.device.memory_free)
    return (
        f"{share.device.name}: {', '.join(parts) or 'embeddings'}; {_size(share.weights)} of weights, "
        f"{_size(share.cache)} of cache, {_size(share.compute)} to compute, of {free} free"
    )


def _costs(shares: Sequence[Share]) -> list[str]:
    """Say what the placement costs in speed."""
    found = []
    slow = shares[0]
    gpus = [share for share in shares if share.device.kind is Kind.GPU]
    if gpus and (slow.end > slow.first or slow.experts_of_others):
        found.append("what stays with the CPU sets the speed: every token waits for it")
    workers = [share for share in shares if share.device.kind is Kind.WORKER]
    if workers:
        named = "a worker" if len(workers) == 1 else f"{len(workers)} workers, one after the other,"
        found.append(f"each token waits for {named} and for the network; what fits into one machine is faster there")
    return found


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 10**9 else f"{count / 1e6:.1f} MB"
