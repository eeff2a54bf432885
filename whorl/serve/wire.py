"""Frames between the API's process and its workers: a length, then msgpack of one of these messages.

Nothing but plain data passes; what does not decode to one of the types is refused.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from whorl.base.errors import DataError, InputError, one_line
from whorl.serve.requests import EngineEvent, EngineHealth, EngineInfo, EngineRequest
from whorl.text.images import Patches

HEADER = struct.Struct(">I")
MAX_FRAME = 512 << 20  # bytes; a request with images of some hundred MB is refused before


class FieldError(InputError):
    """A request's mistake, in the field of this name."""

    def __init__(self, message: str, field: str) -> None:
        super().__init__(message)
        self.field = field


@dataclass(frozen=True)
class Generate:
    request: EngineRequest


@dataclass(frozen=True)
class Abort:
    id: str


@dataclass(frozen=True)
class LoadAdapter:
    call: int
    name: str
    directory: str


@dataclass(frozen=True)
class UnloadAdapter:
    call: int
    name: str


@dataclass(frozen=True)
class Close:
    """Leave when what is at hand has been written."""


@dataclass(frozen=True)
class Ready:
    info: EngineInfo


@dataclass(frozen=True)
class Failed:
    """The engine could not start, and why; it is of no use to try again."""

    error: str


@dataclass(frozen=True)
class Events:
    """What one step gave, and the engine's state after it."""

    events: tuple[EngineEvent, ...]
    health: EngineHealth


@dataclass(frozen=True)
class Beat:
    """The engine's process is alive, in this state; its thread has been at one step, or at one command,
    for so many `seconds` (0: it waits for work)."""

    health: EngineHealth
    seconds: float


@dataclass(frozen=True)
class Answer:
    """The result of call number `call`, or the one-line error it ended with (`fault`: the engine's own
    fault); `info` is after it."""

    call: int
    text: str
    error: str
    info: EngineInfo
    fault: bool = False


@dataclass(frozen=True)
class PrepareChat:
    """A conversation in OpenAI's form, to become a prompt. `template_args` are the request's own;
    `response_format`, `regex` and `lark` each ask for a grammar, `tool_choice` may."""

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]]
    template_args: dict[str, Any]
    tool_choice: str | dict[str, Any]
    response_format: dict[str, Any] | None = None
    regex: str | None = None
    lark: str | None = None
    context: int = 0  # tokens that the engine takes; 0: any number


@dataclass(frozen=True)
class PrepareText:
    """A plain text, to become a prompt: behind the start token where the tokenizer has one."""

    text: str
    context: int = 0


@dataclass(frozen=True)
class PrepareIds:
    """A prompt that came as tokens, to become one with its `text`."""

    ids: tuple[int, ...]


@dataclass(frozen=True)
class Prepared:
    """A prompt as the engine takes it; `spans` (start, end, role) say whose each turn is, `before` are the
    tokens in front of a plain text, `text` is what given tokens spell. `error` in its place is one line for
    the user, about `field` of the request where that is known; `fault` says that the server is to blame."""

    ids: tuple[int, ...] = ()
    images: tuple[Patches, ...] = ()
    image_positions: tuple[int, ...] = ()
    image_digests: tuple[str, ...] = ()
    thinking: bool = False
    grammar: str = ""
    calls: bool = False  # it holds the reply to tool calls
    spans: tuple[tuple[int, int, str], ...] = ()
    template_hash: str = ""
    tokenizer_hash: str = ""
    before: int = 0
    text: str = ""
    error: str = ""
    field: str = ""
    fault: bool = False


KINDS = (
    Generate, Abort, LoadAdapter, UnloadAdapter, Close, Ready, Failed, Events, Beat, Answer,
    PrepareChat, PrepareText, PrepareIds, Prepared,
)  # fmt: skip
Message = (
    Generate | Abort | LoadAdapter | UnloadAdapter | Close | Ready | Failed | Events | Beat | Answer
    | PrepareChat | PrepareText | PrepareIds | Prepared
)  # fmt: skip
TYPES: dict[str, type] = {kind.__name__: kind for kind in KINDS}


def _pack(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return {"shape": list(value.shape), "data": np.ascontiguousarray(value, np.float32).tobytes()}
    raise TypeError(f"{type(value).__name__} cannot be sent over the wire")


def _unpack(kind: type, value: Any) -> Any:
    if kind is np.ndarray:
        if not isinstance(value, dict) or not isinstance(value.get("data"), bytes):
            raise ValueError("an array is a shape and its bytes")
        return np.frombuffer(value["data"], np.float32).reshape(value["shape"])
    raise TypeError(f"{kind.__name__} cannot be received over the wire")


_encoder = msgspec.msgpack.Encoder(enc_hook=_pack)
_decoders: dict[str, msgspec.msgpack.Decoder[Any]] = {}


def encode(message: Message) -> bytes:
    """The frame of a message; InputError where what it holds does not go into one."""
    try:
        body = _encoder.encode([type(message).__name__, msgspec.Raw(_encoder.encode(message))])
    except UnicodeEncodeError as error:
        raise InputError(f"a text is not valid Unicode: {one_line(error)}") from error
    except (OverflowError, RecursionError, TypeError, ValueError, msgspec.MsgspecError) as error:
        raise InputError(f"a value cannot be sent to the engine: {one_line(error)}") from error
    if len(body) > MAX_FRAME:
        raise InputError(f"the request takes {len(body)} bytes; at most {MAX_FRAME} can be sent, shorten it")
    return HEADER.pack(len(body)) + body


def decode(body: bytes) -> Message:
    """The message of a frame's body; DataError where it is none."""
    try:
        name, raw = msgspec.msgpack.decode(body, type=tuple[str, msgspec.Raw])
        if name not in _decoders:
            _decoders[name] = msgspec.msgpack.Decoder(TYPES[name], dec_hook=_unpack)
        message: Message = _decoders[name].decode(raw)
    except (msgspec.MsgspecError, KeyError, ValueError, TypeError) as error:
        raise DataError(f"a frame of {len(body)} bytes is not a message: {error}") from error
    return message


def _length(header: bytes) -> int:
    (length,) = HEADER.unpack(header)
    if length > MAX_FRAME:
        raise DataError(f"a frame of {length} bytes is over the limit of {MAX_FRAME}")
    return int(length)


def read_frame(connection: socket.socket) -> Message | None:
    """The next message, None where the other side has closed."""
    header = _receive(connection, HEADER.size)
    if header is None:
        return None
    body = _receive(connection, _length(header))
    return None if body is None else decode(body)


def _receive(connection: socket.socket, count: int) -> bytes | None:
    held = bytearray(count)
    view, got = memoryview(held), 0
    while got < count:
        received = connection.recv_into(view[got:])
        if not received:
            return None
        got += received
    return bytes(held)


async def read_message(reader: asyncio.StreamReader) -> Message | None:
    """As `read_frame`, in an event loop."""
    try:
        return decode(await reader.readexactly(_length(await reader.readexactly(HEADER.size))))
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
