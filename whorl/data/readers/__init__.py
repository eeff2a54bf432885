"""Files in, documents out: text, markdown, source code, JSON lines, JSON, CSV, parquet, images.

What every reader does to text: a UTF-8 byte-order mark at the start of a file is dropped, and CRLF
and lone CR become LF. A NUL, bytes that are not UTF-8, or half of a surrogate pair make a `Reject`:
such input is damaged or not text, and mending it by guesswork would hide that.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from whorl.data.document import Reject as Reject
    from whorl.data.readers.piece import read as read
    from whorl.data.readers.piece import read_piece as read_piece
    from whorl.data.readers.sources import Piece as Piece
    from whorl.data.readers.sources import SourceFile as SourceFile
    from whorl.data.readers.sources import discover as discover

_WHERE = {
    "Piece": "whorl.data.readers.sources",
    "Reject": "whorl.data.document",
    "SourceFile": "whorl.data.readers.sources",
    "discover": "whorl.data.readers.sources",
    "read": "whorl.data.readers.piece",
    "read_piece": "whorl.data.readers.piece",
}
__all__ = ["Piece", "Reject", "SourceFile", "discover", "read", "read_piece"]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_WHERE[name]), name)
