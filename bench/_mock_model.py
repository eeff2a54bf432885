"""A server of OpenAI's protocol that answers at once with the same words: what is left is our own time.

python bench/_mock_model.py        prints its address, and serves until its standard input closes
"""

from __future__ import annotations

import asyncio
import json
import sys

WORDS = ("A **whorl** ", "is the weight ", "on a spindle; ", "it keeps it turning.")
NAMES = tuple(f"mock-{letter}" for letter in "abcd")


def event(value: object) -> bytes:
    return b"data: " + (value if isinstance(value, bytes) else json.dumps(value).encode()) + b"\n\n"


def chunk(delta: dict[str, str], finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return event({"choices": [choice], "system_fingerprint": "0123456789abcdef"})


MODELS = json.dumps({"data": [{"id": name, "object": "model"} for name in NAMES]}).encode()
REPLY = b"".join([*(chunk({"content": word}) for word in WORDS), chunk({}, "stop"), event(b"[DONE]")])


def answer(kind: bytes, body: bytes) -> bytes:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n" % (kind, len(body))
    return head + body


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            for line in head.lower().split(b"\r\n"):
                if line.startswith(b"content-length:"):
                    await reader.readexactly(int(line.partition(b":")[2]))
            writer.write(
                answer(b"text/event-stream", REPLY) if head.startswith(b"POST")
                else answer(b"application/json", MODELS)
            )  # fmt: skip
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


async def main() -> None:
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await asyncio.to_thread(sys.stdin.read)  # whoever started this has ended
    server.close()


if __name__ == "__main__":
    asyncio.run(main())
