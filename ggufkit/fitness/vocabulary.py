"""The vocabulary: what llama.cpp asserts of it when it loads (`llama_vocab::impl::load`) and when it cuts up a text."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence

from ggufkit.findings import Finding, Severity
from ggufkit.gguf_file.reader import GgufHeader, Metadata, ValueType

_MODEL, _PREFIX = "tokenizer.ggml.model", "tokenizer.ggml."
_TOKENS = f"{_PREFIX}tokens"
_WITHOUT = {"no_vocab", "none"}
_NONE = {(1 << 32) - 1, -1}  # LLAMA_TOKEN_NULL, as llama.cpp itself writes it for a token that there is not
_LISTS = {
    "token_type": (ValueType.INT32,),
    "scores": (ValueType.FLOAT32, ValueType.INT32),
}
# A wrong id of these is passed over by every program, and common in models that work.
_HARMLESS = {"padding", "mask", "cls", "seperator", "fim_pre", "fim_suf", "fim_mid", "fim_pad", "fim_rep", "fim_sep"}
_ROLES = ("bos", "eos", "eot", "eom", "unknown", *sorted(_HARMLESS))
# What a kind of tokenizer takes when the file says nothing; None: no such token.
_DEFAULT_BOS = {"llama": 1, "bert": 101, "gpt2": 11, "plamo2": 1, "hybriddna": 11, "whitespace": 11}
_DEFAULT_EOS = {"llama": 2, "gpt2": 11, "t5": 1, "plamo2": 2, "hybriddna": 11, "whitespace": 11}
_BYTES = tuple(f"<0x{byte:02X}>" for byte in range(256))


def check_vocabulary(header: GgufHeader) -> Iterator[Finding]:
    """Check the lists of the vocabulary against each other, and the ids of special tokens against it."""
    metadata = header.metadata
    kind = metadata.get(_MODEL) if _MODEL in metadata.entries else None
    if not isinstance(kind, str) or kind in _WITHOUT or _TOKENS not in metadata.entries:
        return  # llama.cpp says what is missing
    entry = metadata.entries[_TOKENS]
    if entry.element_kind is not ValueType.STRING:
        yield Finding(Severity.UNFIT, "is not a list of strings", _TOKENS)
        return
    if not entry.count:
        yield Finding(Severity.UNFIT, "is empty, but a vocabulary has tokens", _TOKENS)
        return
    tokens = metadata[_TOKENS]
    if isinstance(tokens, list):
        texts = [str(token) or f"[EMPTY_{number}]" for number, token in enumerate(tokens)]  # as llama.cpp names them
        yield from _distinct(texts)
        if kind == "llama":
            yield from _bytes(texts)
        if kind in _WITH_TRIE:
            yield from _short(texts)
        if kind == "rwkv":
            yield from _beginnings(texts)
    yield from _lists(metadata, entry.count)
    yield from _ids(metadata, entry.count)
    yield from _ends(metadata, kind, entry.count)


def _lists(metadata: Metadata, count: int) -> Iterator[Finding]:
    for name, kinds in _LISTS.items():
        key = _PREFIX + name
        entry = metadata.entries.get(key)
        if entry is None:
            continue
        if entry.element_kind not in kinds:
            wanted = " or ".join(kind.name for kind in kinds)
            yield Finding(Severity.UNFIT, f"is not a list of {wanted}", key)
        elif entry.count != count:
            yield Finding(Severity.UNFIT, f"has {entry.count:,} elements for {count:,} tokens", key)
    key = f"{_PREFIX}merges"
    entry = metadata.entries.get(key)
    if entry is not None and entry.element_kind is not ValueType.STRING:
        yield Finding(Severity.UNFIT, "is not a list of strings", key)


def _ids(metadata: Metadata, count: int) -> Iterator[Finding]:
    for role in _ROLES:
        key = f"{_PREFIX}{role}_token_id"
        entry = metadata.entries.get(key)
        if entry is None:
            continue
        value = metadata[key]
        if entry.kind is not ValueType.UINT32 or not isinstance(value, int):
            yield Finding(Severity.UNFIT, f"is of type {entry.kind.name}, but must be of type UINT32", key)
        elif value >= count and value not in _NONE:
            severity = Severity.WARNING if role in _HARMLESS else Severity.UNFIT
            yield Finding(severity, f"is {value}, outside of the {count:,} tokens", key)


# llama-vocab.cpp, tokenize: what the key asks for is not looked at.
_NEVER_ADDED = {(kind, role) for kind in ("rwkv", "plamo2", "test") for role in ("bos", "eos")} | {("bert", "eos")}


def _ends(metadata: Metadata, kind: str, count: int) -> Iterator[Finding]:
    """Every text is begun with BOS if the file says so; there must be one then."""
    for role, defaults in (("bos", _DEFAULT_BOS), ("eos", _DEFAULT_EOS)):
        key, wish = f"{_PREFIX}{role}_token_id", f"{_PREFIX}add_{role}_token"
        if wish not in metadata.entries or metadata[wish] is not True or (kind, role) in _NEVER_ADDED:
            continue
        known = [defaults.get(kind), metadata.get(key) if key in metadata.entries else None]
        if not any(isinstance(number, int) and 0 <= number < count for number in known):
            yield Finding(Severity.UNFIT, f"is true, but the vocabulary has no {role.upper()} token", wish)


def _distinct(texts: Sequence[str]) -> Iterator[Finding]:
    if len(set(texts)) == len(texts):
        return
    [(twice, _)] = Counter(texts).most_common(1)
    yield Finding(Severity.UNFIT, f"holds {twice[:60]!r} twice, but tokens must differ", _TOKENS)


# llama-vocab.cpp, naive_trie::insert calls itself for every byte of a piece, and the stack ends; real ones have dozens.
_WITH_TRIE = {"t5", "rwkv"}
_LONGEST_PIECE = 8192


def _short(texts: Sequence[str]) -> Iterator[Finding]:
    for number, text in enumerate(texts):
        if len(text) > _LONGEST_PIECE // 4 and (size := len(text.encode())) > _LONGEST_PIECE:
            what = f"holds a piece of {size:,} bytes (number {number}), more than llama.cpp's stack bears"
            yield Finding(Severity.UNFIT, what, _TOKENS)
            return


# llama-vocab.cpp, llama_unescape_rwkv_token: behind a backslash t, n, r, x with two hexadecimal digits, or a character.
_SPELLED = re.compile(rb"\\(?:x(?P<code>[0-9A-Fa-f]{2})|(?P<named>.))|(?P<plain>[^\\])", re.DOTALL)
_NAMED = {b"t": b"\t", b"n": b"\n", b"r": b"\r"}


def _beginnings(texts: Sequence[str]) -> Iterator[Finding]:
    """Where a text follows no token to its end, llm_tokenizer_rwkv_session begins anew at the text's first byte."""
    begun, alone = set(), set()
    for text in texts:
        spelled = text.encode("utf-8", "surrogateescape")
        if found := _SPELLED.match(spelled):
            code, named = found["code"], found["named"]
            byte = bytes.fromhex(code.decode()) if code else _NAMED.get(named, named) if named else found["plain"]
            begun.add(byte)
            if found.end() == len(spelled):
                alone.add(byte)
    if endless := sorted(begun - alone):
        what = f"has tokens that begin with byte 0x{endless[0].hex().upper()}, but none for it alone"
        yield Finding(Severity.UNFIT, f"{what}: llama.cpp would never be done with a text that holds it", _TOKENS)


_NEVER_IN_UTF8 = {0xC0, 0xC1, *range(0xF5, 0x100)}


def _bytes(texts: Sequence[str]) -> Iterator[Finding]:
    """A SentencePiece vocabulary spells what it has no token for in bytes; a byte without a token ends the process."""
    known = set(texts)
    lost = [number for number, name in enumerate(_BYTES) if name not in known and chr(number) not in known]
    if set(lost) <= _NEVER_IN_UTF8:
        return
    named = f"lacks a token for byte 0x{lost[0]:02X}" + (f" and {len(lost) - 1} others" if len(lost) > 1 else "")
    severity = Severity.UNFIT if any(name in known for name in _BYTES) else Severity.WARNING
    yield Finding(severity, f"{named}: a text that needs it cannot be read", _TOKENS)
