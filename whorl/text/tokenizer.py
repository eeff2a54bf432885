"""One wrapper over a `tokenizer.json`: content becomes ordinary tokens, control tokens are the template's."""

from __future__ import annotations

import json
from bisect import bisect_right
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import tokenizers

from whorl.base.errors import DataError, InputError
from whorl.base.files import atomic_write, read_json, sha256_json, write_json
from whorl.text.control import Escape, Twin, control_tokens, make_twin

NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
IMAGE_TOKENS = ("[IMG]", "<image>", "<|image|>", "<|image_pad|>", "<image_soft_token>")


class Tokenizer:
    """Text ↔ ids by the `tokenizers` library, with what Whorl needs to know about the special ones.

    `special_tokens` holds the names templates use (`bos_token`, `eos_token`, `image_token`, …);
    `end_ids` every token that ends a reply; `config` the rest of `tokenizer_config.json`, kept as read.
    """

    def __init__(
        self,
        base: tokenizers.Tokenizer,
        *,
        special_tokens: dict[str, str] | None = None,
        end_ids: tuple[int, ...] = (),
        config: dict[str, Any] | None = None,
    ) -> None:
        self._base = base
        base.no_truncation()
        base.no_padding()
        self.special_tokens = dict(special_tokens or {})
        self.config = dict(config or {})
        eos = self.special_tokens.get("eos_token")
        if not end_ids and eos is not None:
            end_ids = (self.id_of(eos),)
        self.end_ids = end_ids

    @classmethod
    def load(cls, directory: str | Path) -> Self:
        """Read a model directory's `tokenizer.json`, `tokenizer_config.json` (or the older
        `special_tokens_map.json`) and the end tokens in `generation_config.json`."""
        directory = Path(directory)
        path = directory / "tokenizer.json"
        if not path.is_file():
            raise InputError(
                f"{directory} has no tokenizer.json; make one with `whorl tokenizer train PATHS"
                f" --out {directory}` or save the model's fast tokenizer there"
            )
        try:
            base = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises a bare Exception for every malformed file
            raise DataError(f"{path} is not a tokenizer the tokenizers library can read: {error}") from error
        config = _optional(directory / "tokenizer_config.json")
        special = _named_tokens({**_optional(directory / "special_tokens_map.json"), **config})
        for name in ("image_token", "image_break_token", "image_end_token"):
            text = _optional(directory / "processor_config.json").get(name)
            if isinstance(text, str):
                special[name] = text
        for name, text in list(special.items()):
            if base.token_to_id(text) is None:
                del special[name]  # named in the config, absent from the vocabulary: no template can emit it
        return cls(base, special_tokens=special, end_ids=_end_ids(directory, base, special), config=config)

    def save(self, directory: str | Path) -> None:
        """Write `tokenizer.json`, `tokenizer_config.json` and the end tokens of `generation_config.json`
        (other keys there are kept), as transformers' `AutoTokenizer` reads them."""
        directory = Path(directory)
        with atomic_write(directory / "tokenizer.json") as file:
            file.write(self._base.to_str(pretty=True))
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": False,
            "model_max_length": 1_000_000,
            **self.config,
            **{name: text for name, text in self.special_tokens.items() if name in NAMED},
        }
        write_json(directory / "tokenizer_config.json", config)
        if self.end_ids:
            path = directory / "generation_config.json"
            ids: int | list[int] = self.end_ids[0] if len(self.end_ids) == 1 else list(self.end_ids)
            write_json(path, {**_optional(path), "eos_token_id": ids})

    def to_json(self) -> str:
        """The text of tokenizer.json, for libraries that read it."""
        return str(self._base.to_str())

    # -- the vocabulary -------------------------------------------------------------------------

    @cached_property
    def vocab_size(self) -> int:
        """Rows an embedding needs: the highest id plus one."""
        return max(self._base.get_vocab(with_added_tokens=True).values()) + 1

    def __len__(self) -> int:
        return self.vocab_size

    @cached_property
    def _spec(self) -> dict[str, Any]:
        spec: dict[str, Any] = json.loads(self._base.to_str())
        return spec

    @cached_property
    def hash(self) -> str:
        """SHA-256 of the canonical tokenizer.json: what token shards and traces remember."""
        return sha256_json(self._spec)

    @cached_property
    def controls(self) -> dict[str, int]:
        """Control token → id: the tokens that `encode` never gives (see `whorl.text.control`)."""
        return {text: self.id_of(text) for text in control_tokens(self._spec)}

    @cached_property
    def control_ids(self) -> frozenset[int]:
        return frozenset(self.controls.values())

    def id_of(self, token: str) -> int:
        """The id of one token of the vocabulary, control or not; InputError where there is none."""
        number = self._base.token_to_id(token)
        if number is None:
            raise InputError(f"the tokenizer has no token {token!r} among its {self._base.get_vocab_size()}")
        return int(number)

    def has(self, token: str) -> bool:
        return self._base.token_to_id(token) is not None

    def token_of(self, number: int) -> str:
        """The vocabulary's spelling of an id (byte-level tokens look like `Ġthe`)."""
        token = self._base.id_to_token(number)
        if token is None:
            raise InputError(f"the tokenizer has no token number {number}; it has {self.vocab_size}")
        return str(token)

    @property
    def bos_id(self) -> int | None:
        text = self.special_tokens.get("bos_token")
        return None if text is None else self.id_of(text)

    @property
    def pad_id(self) -> int | None:
        text = self.special_tokens.get("pad_token")
        return None if text is None else self.id_of(text)

    @cached_property
    def image_token(self) -> str | None:
        """The placeholder a template writes for an image: as configured, else a well-known one."""
        configured = self.special_tokens.get("image_token")
        return configured or next((text for text in IMAGE_TOKENS if text in self.controls), None)

    # -- text to ids ----------------------------------------------------------------------------

    @cached_property
    def _twin(self) -> Twin:
        return make_twin(self._base, self._spec, list(self.controls))

    @cached_property
    def escape(self) -> Escape:
        return Escape(list(self.controls))

    def encode(self, text: str) -> list[int]:
        """Ids of `text` as ordinary text: never a control token, whatever it spells (a tokenizer that
        cannot spell a character gives its unknown token)."""
        return self._original(_encode(self._twin.tokenizer, text).ids)

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        """`encode` over many texts on the library's threads."""
        try:
            encodings = self._twin.tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        except (UnicodeEncodeError, TypeError) as error:
            raise _no_text(texts, error) from error
        return [self._original(encoding.ids) for encoding in encodings]

    def encode_control(self, text: str) -> list[int]:
        """Ids of trusted text (a template's): control tokens in it are parsed; none are added."""
        return list(_encode(self._base, text).ids)

    def encode_marked(self, text: str, marker: str) -> tuple[list[int], list[tuple[int, int]], str]:
        """Ids, their (start, end) characters, and the text without markers.

        Control strings are parsed except where `escape` has put `marker` into them. Without any
        marker this is exactly `encode_control`.
        """
        if marker not in text:
            encoding = _encode(self._base, text)
            return list(encoding.ids), list(encoding.offsets), text
        pieces: list[str] = []
        # Offsets come back in the aliased text: (its position, the plain text's) at each change.
        aliased_at, plain_at = [0], [0]
        last = aliased = plain = 0
        for match in self.escape.pattern.finditer(text):
            between = text[last : match.start()].replace(marker, "")
            name = self._twin.names[match.group()]
            pieces += [between, name]
            aliased, plain = aliased + len(between), plain + len(between)
            aliased_at.append(aliased)
            plain_at.append(plain)
            aliased, plain = aliased + len(name), plain + len(match.group())
            aliased_at.append(aliased)
            plain_at.append(plain)
            last = match.end()
        pieces.append(text[last:].replace(marker, ""))
        encoding = _encode(self._twin.tokenizer, "".join(pieces))

        def position(at: int) -> int:
            near = bisect_right(aliased_at, at) - 1
            return plain_at[near] + at - aliased_at[near]

        offsets = [(position(start), position(end)) for start, end in encoding.offsets]
        return self._original(encoding.ids), offsets, text.replace(marker, "")

    def _original(self, ids: list[int]) -> list[int]:
        changed = self._twin.ids
        return [changed.get(number, number) for number in ids] if changed else list(ids)

    # -- ids to text ----------------------------------------------------------------------------

    def decode(self, ids: list[int], *, skip_control: bool = False) -> str:
        """The text of `ids`; exact for byte-level tokenizers. Broken UTF-8 reads as U+FFFD."""
        if skip_control:
            ids = [number for number in ids if number not in self.control_ids]
        return str(self._base.decode(ids, skip_special_tokens=False))

    def normalize(self, text: str) -> str:
        """`text` after the tokenizer's own normaliser (NFC, …): what its tokens can give back."""
        normalizer = self._base.normalizer
        return text if normalizer is None else str(normalizer.normalize_str(text))

    @cached_property
    def longest_token(self) -> int:
        """Bytes of text that one token spells at most."""
        # A byte-level vocabulary writes each byte as one character.
        sizes = (len(text if self.byte_level else text.encode()) for text in self._base.get_vocab())
        return max((*sizes, *(len(text.encode()) for text in self.controls)), default=1)

    @cached_property
    def byte_level(self) -> bool:
        """True where decoding gives back every byte (GPT-2, Llama 3, Qwen and ours)."""
        return "ByteLevel" in json.dumps(self._spec.get("decoder"))

    def stream(self, *, skip_control: bool = True) -> StreamDecoder:
        return StreamDecoder(self, skip_control=skip_control)


class StreamDecoder:
    """Text as it comes: each `push` gives what is certain; bytes of an unfinished character wait."""

    LONGEST = 3  # bytes of an unfinished UTF-8 character, each perhaps its own U+FFFD
    WINDOW = 64  # tokens looked at again while no character boundary comes: bounds the work on noise

    def __init__(self, tokenizer: Tokenizer, *, skip_control: bool = True) -> None:
        self._tokenizer = tokenizer
        self._skip = tokenizer.control_ids if skip_control else frozenset()
        self._ids: list[int] = []
        self._context = 0  # leading tokens of `_ids` kept only so that spaces decode as in a sentence
        self._shown = 0  # characters of decode(_ids) already given

    def push(self, number: int) -> str:
        if number in self._skip:
            return ""
        self._ids.append(number)
        text = self._tokenizer.decode(self._ids)
        held = 0
        while held < min(self.LONGEST, len(text)) and text[len(text) - 1 - held] == "\ufffd":
            held += 1
        if len(self._ids) > self.WINDOW:
            held = 0
        new = text[self._shown : len(text) - held]
        self._shown = max(self._shown, len(text) - held)
        if not held:
            del self._ids[: self._context]
            self._context = len(self._ids)
            self._shown = len(self._tokenizer.decode(self._ids))
        return new

    def finish(self) -> str:
        """What was held back, with U+FFFD where a character never ended."""
        text = self._tokenizer.decode(self._ids)[self._shown :]
        self._ids, self._context, self._shown = [], 0, 0
        return text


def _encode(tokenizer: tokenizers.Tokenizer, text: str) -> tokenizers.Encoding:
    try:
        return tokenizer.encode(text, add_special_tokens=False)
    except (UnicodeEncodeError, TypeError) as error:
        raise _no_text([text], error) from error


def _no_text(texts: list[str], error: Exception) -> Exception:
    """The library takes UTF-8 only; JSON can spell half a surrogate pair, which has none."""
    for text in texts:
        at = next((at for at, character in enumerate(text) if "\ud800" <= character <= "\udfff"), None)
        if at is not None:
            problem = f"half a surrogate pair at character {at} is not a character"
            return DataError(f"text cannot be encoded: {problem}; clean the record")
    return error


def _optional(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    value = read_json(path)
    if not isinstance(value, dict):
        raise DataError(f"{path} is not a JSON object")
    return value


def _named_tokens(config: dict[str, Any]) -> dict[str, str]:
    extra = config.get("extra_special_tokens")
    fields = {name: config.get(name) for name in NAMED}
    fields |= {name: text for name, text in config.items() if name.endswith("_token") and name not in fields}
    fields |= extra if isinstance(extra, dict) else {}
    texts = {name: value["content"] if isinstance(value, dict) else value for name, value in fields.items()}
    return {name: text for name, text in texts.items() if isinstance(text, str)}


def _end_ids(directory: Path, base: tokenizers.Tokenizer, special: dict[str, str]) -> tuple[int, ...]:
    path = directory / "generation_config.json"
    given = _optional(path).get("eos_token_id")
    if given is None and "eos_token" not in special:
        path = directory / "config.json"
        given = _optional(path).get("eos_token_id")
    ids = given if isinstance(given, list) else [] if given is None else [given]
    for number in ids:
        if not isinstance(number, int) or base.id_to_token(number) is None:
            raise DataError(f"{path}: eos_token_id {number!r} is not in the tokenizer.json next to it")
    if "eos_token" in special:
        ids = [*ids, base.token_to_id(special["eos_token"])]
    return tuple(dict.fromkeys(ids))
