"""A record (a JSON object, a row of a table) to a document."""

from __future__ import annotations

import base64
import json
import math
from pathlib import Path
from typing import Any

from whorl.data.config import ReadConfig
from whorl.data.document import Document, Kind, Reject, document_id
from whorl.data.readers.images import read_images
from whorl.data.readers.sources import SourceFile
from whorl.data.readers.text import BadTextError, check_encodable, clean

TURN_FIELDS = ("conversations", "messages")  # ShareGPT's and OpenAI's names for a chat's turns


class RecordReader:
    """Turns one file's records into documents, or into rejects that keep the original."""

    def __init__(self, file: SourceFile, config: ReadConfig) -> None:
        self.file, self.config = file, config
        self.folder = Path(file.path).parent

    def read(self, record: Any, *, index: int, line: int, raw: bytes | None = None) -> Document | Reject:
        """`index` is the record's number in the file from 0, `line` where it begins, from 1; `raw`
        the bytes it was read from, where there are any."""
        try:
            if not isinstance(record, dict):
                raise BadTextError(
                    "not-a-record", f"a JSON {type(record).__name__}, not an object with fields"
                )
            return self._document(record, index, line)
        except BadTextError as bad:
            return self.reject(bad.reason, line, bad.detail, raw if raw is not None else as_bytes(record))

    def reject(
        self, reason: str, line: int, detail: str, raw: bytes = b"", size: int | None = None
    ) -> Reject:
        return Reject(
            source=self.file.path, reason=reason, line=line, detail=detail,
            data=raw[: self.config.keep_reject_bytes], size=len(raw) if size is None else size,
        )  # fmt: skip

    def missing_text(self, names: list[str]) -> str | None:
        """Why a table with these columns can give no document; None if it can."""
        if set(self.config.text_fields) <= set(names) or set(TURN_FIELDS) & set(names):
            return None
        return f"fields are {', '.join(names)}; set read.text_fields to the ones that hold the text"

    def _document(self, record: dict[str, Any], index: int, line: int) -> Document:
        turns = next((name for name in TURN_FIELDS if isinstance(record.get(name), list)), None)
        fields = self.config.text_fields
        images = read_images(record, self.folder, self.config)
        kind: Kind = "image-text" if images else "text"
        if turns and not any(name in record for name in fields):
            text, kind = _turns_text(record[turns], turns), "conversation"
        else:
            text = "\n\n".join(self._field(record, name) for name in fields)
        text = clean(text)
        if not text.strip() and not images:
            raise BadTextError("empty-text", f"{' and '.join(fields)}: only whitespace")
        left_out = {*self.config.image_fields, *(fields if len(fields) == 1 else ())}
        meta = {str(name): plain(value) for name, value in record.items() if name not in left_out}
        title = record.get(self.config.title_field)
        check_encodable(json.dumps(meta, ensure_ascii=False))
        return Document(
            id=document_id(self.file.label, index, text, images), text=text, source=self.file.path, line=line,
            meta=meta, images=images, title=title if isinstance(title, str) else "", kind=kind,
        )  # fmt: skip

    def _field(self, record: dict[str, Any], name: str) -> str:
        value = record.get(name)
        if not isinstance(value, str):
            if name in record:
                raise BadTextError("missing-text", f"field {name!r} is {type(value).__name__}, not text")
            raise BadTextError(
                "missing-text", self.missing_text(list(map(str, record))) or f"no field {name!r}"
            )
        return value


def _turns_text(turns: list[Any], name: str) -> str:
    """A chat as "role: words" paragraphs, which is what signals and deduplication look at."""
    told = []
    for number, turn in enumerate(turns):
        role = turn.get("role", turn.get("from")) if isinstance(turn, dict) else None
        words = turn.get("content", turn.get("value")) if isinstance(turn, dict) else None
        if not isinstance(role, str) or not isinstance(words, str):
            raise BadTextError(
                "conversation-form", f"{name}[{number}] is not a plain role and text; use whorl sft for it"
            )
        told.append(f"{role}: {words}")
    return "\n\n".join(told)


def plain(value: Any) -> Any:
    """`value` as plain JSON: dates as ISO text, bytes as base64, NaN and infinities as null."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def as_bytes(record: Any) -> bytes:
    """A record that came from no bytes of its own (a table's row), as JSON."""
    return json.dumps(plain(record), ensure_ascii=False).encode("utf-8", "surrogatepass")
