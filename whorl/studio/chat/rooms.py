"""The exchanges that are going on, one at most in each conversation."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from whorl.serve.api.errors import ApiError
from whorl.studio.chat.exchange import Exchange

AT_ONCE = 6  # exchanges of one person that may go on; each holds a model
REMEMBERED = 256  # ended exchanges, for pages that come back to hear how they ended
CLOSING_SECONDS = 4.0


class Rooms:
    def __init__(self) -> None:
        self._exchanges: dict[str, Exchange] = {}
        self._claimed: dict[str, int] = {}  # conversation → whose: an exchange is being made for it
        self.allowed: set[str] = set()  # conversations whose tools act unasked, while the studio runs

    def running(self, conversation: str) -> Exchange | None:
        found = self._exchanges.get(conversation)
        return found if found is not None and not found.log.ended else None

    def find(self, conversation: str, number: str) -> Exchange | None:
        found = self._exchanges.get(conversation)
        return found if found is not None and found.number == number else None

    def check(self, person: int) -> None:
        """ApiError 429 where as many replies as may be are made for the person already."""
        going = [one.person for one in self._exchanges.values() if not one.log.ended]
        if [*going, *self._claimed.values()].count(person) >= AT_ONCE:
            said = f"{AT_ONCE} replies are being generated for you; wait for one or stop one"
            raise ApiError(429, said, code="rate_limited", headers={"Retry-After": "5"})

    async def begin(
        self, conversation: str, person: int, make: Callable[[], Awaitable[Exchange]]
    ) -> Exchange:
        """Start what `make` gives; ApiError 409 while another exchange goes on here. Two messages that
        come at once are not both kept."""
        if self.running(conversation) is not None or conversation in self._claimed:
            raise ApiError(
                409, "a reply is still being generated; stop it first, or wait for it", code="busy"
            )
        self.check(person)
        self._claimed[conversation] = person
        try:
            exchange = await make()
        finally:
            self._claimed.pop(conversation, None)
        self._exchanges.pop(conversation, None)
        self._exchanges[conversation] = exchange
        self._forget()
        exchange.start()
        return exchange

    async def stop(self, conversation: str) -> None:
        """End what goes on here, and wait until what came of it is kept."""
        exchange = self.running(conversation)
        if exchange is not None and exchange.task is not None:
            exchange.stop()
            await asyncio.wait({exchange.task}, timeout=CLOSING_SECONDS)

    async def close(self) -> None:
        """The studio ends: replies in the making are kept as far as they came."""
        await asyncio.gather(*(self.stop(one) for one in list(self._exchanges)))

    def forget(self, conversation: str) -> None:
        self._exchanges.pop(conversation, None)
        self.allowed.discard(conversation)

    def _forget(self) -> None:
        ended = [name for name, one in self._exchanges.items() if one.log.ended]
        for name in ended[: max(0, len(ended) - REMEMBERED)]:
            del self._exchanges[name]
