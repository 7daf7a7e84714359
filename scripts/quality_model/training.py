"""Training of a small Llama on made-up texts: two threads do half of every batch each; goes on after a stop."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import random
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import tokenizers
import torch
from torch.nn import functional

from quality_model.texts import Writer

END = "<|endoftext|>"
SPECIAL_TOKENS = [END, "<|im_start|>", "<|im_end|>"]
_MIX = ("prose", "prose", "technical", "technical", "records")
_SAVE_SECONDS = 60


def configuration(*, tied: bool, layers: int, vocabulary: int) -> dict[str, Any]:
    """config.json of the model: all widths are multiples of 256, two query heads share a key-value head."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "bos_token_id": None,
        "eos_token_id": 0,
        "head_dim": 64,
        "hidden_act": "silu",
        "hidden_size": 256,
        "initializer_range": 0.02,
        "intermediate_size": 768,
        "max_position_embeddings": 1024,
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": 4,
        "num_hidden_layers": layers,
        "num_key_value_heads": 2,
        "pad_token_id": 0,
        "rms_norm_eps": 1e-05,
        "rope_theta": 10000.0,
        "tie_word_embeddings": tied,
        "torch_dtype": "float32",
        "vocab_size": vocabulary,
    }


def demo_trainer() -> Any:
    """The trainer of the demo model, whose optimizer and pre-tokenizer are used here too."""
    path = Path(__file__).resolve().parent.parent / "train-demo-model"
    loader = importlib.machinery.SourceFileLoader("train_demo_model", str(path))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules[loader.name] = module  # its dataclasses look themselves up there
    loader.exec_module(module)
    return module


def train_tokenizer(writer: Writer, vocabulary: int) -> tokenizers.Tokenizer:
    """A byte-level BPE over all domains."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    pattern = Regex(demo_trainer().PRE_TOKENIZER_PATTERN)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(pattern, "isolated", invert=False),
            pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    chance = random.Random("tokenizer")
    tokenizer.train_from_iterator((writer.domains[chance.choice(_MIX)](chance) for _ in range(6000)), trainer)
    if tokenizer.get_vocab_size() != vocabulary:
        raise SystemExit(f"the tokenizer has {tokenizer.get_vocab_size()} tokens, not {vocabulary}")
    return tokenizer


def training_tokens(writer: Writer, tokenizer: tokenizers.Tokenizer, key: str, count: int) -> list[int]:
    """At least `count` tokens of new documents, each with its end."""
    chance, ids = random.Random(f"training {key}"), []
    end = tokenizer.token_to_id(END)
    while len(ids) < count:
        documents = [writer.domains[chance.choice(_MIX)](chance) for _ in range(8)]
        for encoded in tokenizer.encode_batch_fast(documents):
            ids += [*encoded.ids, end]
    return ids


@dataclass
class Progress:
    """What a resumed run has to know."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0


def train(
    model: torch.nn.Module, writer: Writer, tokenizer: tokenizers.Tokenizer, *, tokens: int, checkpoint: Path
) -> Progress:
    """Train on so many tokens; goes on from `checkpoint` where that exists."""
    demo = demo_trainer()
    parameters = list(model.parameters())
    matrices = [parameter for name, parameter in model.named_parameters() if "_proj" in name]
    others = [parameter for name, parameter in model.named_parameters() if "_proj" not in name]
    muons = [demo.Muon(matrices[half::2], rate=0.02, decay=0.1) for half in range(2)]
    adam = torch.optim.AdamW(others, lr=0.004, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
    progress = Progress()
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        adam.load_state_dict(state["adam"])
        for muon, momenta in zip(muons, state["muon"], strict=True):
            muon.momenta = momenta
        progress = Progress(**state["progress"])
        print(f"going on at step {progress.step}", flush=True)

    def save() -> None:
        partial = checkpoint.with_suffix(".partial")
        state = {"model": model.state_dict(), "adam": adam.state_dict(), "muon": [muon.momenta for muon in muons]}
        torch.save({**state, "progress": asdict(progress)}, partial)
        partial.replace(checkpoint)

    def gradients_of(tokens: torch.Tensor) -> tuple[float, tuple[torch.Tensor, ...]]:
        logits = model(tokens[:, :-1], use_cache=False).logits
        loss = functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        return loss.item(), torch.autograd.grad(loss, parameters)

    # Two threads with half a batch each meet once in a step, where torch's own meet in every operation.
    torch.set_num_threads(1)
    pool = ThreadPoolExecutor(2, initializer=torch.set_num_threads, initargs=(1,))
    average, saved = 0.0, time.monotonic()
    while (done := progress.tokens / tokens) < 1:
        began = time.monotonic()
        count, length = (4, 512) if progress.step % 4 == 3 else (8, 256)
        ids = training_tokens(writer, tokenizer, str(progress.step), count * (length + 1))
        batch = torch.tensor(ids[: count * (length + 1)]).view(count, length + 1)
        (loss_1, gradients_1), (loss_2, gradients_2) = pool.map(gradients_of, batch.chunk(2))
        for parameter, gradient_1, gradient_2 in zip(parameters, gradients_1, gradients_2, strict=True):
            parameter.grad = gradient_1.add_(gradient_2).mul_(0.5)
        scale = demo.rate_scale(done)
        torch.nn.utils.clip_grad_norm_(others, 1.0)
        for group in adam.param_groups:
            group["lr"] = 0.004 * scale
        adam.step()
        list(pool.map(lambda muon, scale=scale: muon.step(scale), muons))
        loss = (loss_1 + loss_2) / 2
        average = loss if not average else 0.98 * average + 0.02 * loss
        progress.step += 1
        progress.tokens += count * length
        progress.seconds += time.monotonic() - began
        if progress.step % 20 == 0:
            speed = progress.tokens / progress.seconds
            print(
                f"step {progress.step}  {progress.tokens / 1e6:.2f} of {tokens / 1e6:.2f} M tokens  "
                f"{speed:.0f} tokens/s  loss {average:.4f}",
                flush=True,
            )
        if time.monotonic() - saved > _SAVE_SECONDS:
            save()
            saved = time.monotonic()
    save()
    pool.shutdown()
    return progress
