"""Thumbs with a reason, and the reply as it should have been. They are kept apart from votes, since whoever
sees a model's name is no blind judge; here they leave as pairs for `whorl dpo` and chats for `whorl sft`."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Literal

from fastapi import FastAPI
from pydantic import BaseModel
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response

from whorl.arena.store.exporting import export_person
from whorl.base.nouns import Message
from whorl.studio.chat.turns import own_chat
from whorl.studio.studio import Studio
from whorl.studio.web.incoming import check_length, known_number
from whorl.studio.web.markdown import render_finished


class Thumb(BaseModel):
    value: Literal[-1, 0, 1]
    reason: str = ""


class Better(BaseModel):
    text: str


def add_judging(made: FastAPI, studio: Studio) -> None:
    limits = studio.config.limits

    @made.post("/api/chat/{conversation}/turns/{turn}/thumb")
    async def thumb(request: Request, conversation: str, turn: int, asked: Thumb) -> Response:
        person = studio.person(request)
        studio.messages.take(person.id)
        known_number(turn, "turn")
        check_length(asked.reason, limits, "reason")

        def keep() -> None:
            own_chat(studio.store, conversation, person.id)
            studio.store.thumb(turn, asked.value, person=person.id, reason=asked.reason.strip())

        await run_in_threadpool(keep)
        return JSONResponse({"thumb": asked.value, "reason": asked.reason.strip()})

    @made.post("/api/chat/{conversation}/turns/{turn}/better")
    async def better(request: Request, conversation: str, turn: int, asked: Better) -> Response:
        person = studio.person(request)
        studio.messages.take(person.id)
        known_number(turn, "turn")
        check_length(asked.text, limits, "reply")
        text = asked.text.strip()

        def keep() -> str:
            own_chat(studio.store, conversation, person.id)
            message = Message(role="assistant", content=(text,) if text else ())
            studio.store.write_better(turn, message, person=person.id)
            return render_finished(text)

        return JSONResponse({"better": text, "better_html": await run_in_threadpool(keep)})

    @made.get("/api/chat/export")
    async def export(request: Request) -> Response:
        """One's own chats and preference pairs, whatever one let others do with them, as a zip file."""
        person = studio.person(request)
        studio.messages.take(person.id)
        folder = Path(tempfile.mkdtemp(prefix="whorl-export-"))

        def write() -> Path:
            try:
                export_person(studio.store, person.id, folder / "whorl-chats")
                return Path(shutil.make_archive(str(folder / "whorl-chats"), "zip", folder, "whorl-chats"))
            except BaseException:
                shutil.rmtree(folder, ignore_errors=True)
                raise

        return FileResponse(
            await run_in_threadpool(write), media_type="application/zip", filename="whorl-chats.zip",
            headers={"Cache-Control": "no-store"}, background=BackgroundTask(shutil.rmtree, folder, True),
        )  # fmt: skip
