"""The replay guard in Redis: one script and one round trip per call, by the pipelines that sessions' commits take."""

from __future__ import annotations

from typing import Any, Final, Self

from actors.errors import Misconfigured, StoreUnavailable
from actors.model import Sealed
from actors.settings import Settings
from actors.stores.base import Mismatch, Ok
from actors.stores.guard import SPARE_S, GuardAnswer, Mark, Repeated, Superseded
from actors.stores.keys import Keys
from actors.stores.redis import Transport
from actors.stores.redis_fit import require_fit
from actors.stores.redis_pipeline import Pipelines
from actors.stores.scripts import SCRIPTS, Argument, Call

_OK: Final = Ok()


class RedisGuard:
    """The :class:`~actors.stores.guard.Guard` on a Redis server."""

    def __init__(self, transport: Transport, keys: Keys, ttl_s: float, answer_s: float) -> None:
        self._transport = transport
        self._keys = keys
        self._ttl_ms, self._answer_ms = max(1, int(ttl_s * 1000)), max(1, int(answer_s * 1000))

    @classmethod
    async def open(cls, settings: Settings, url: str) -> Self:
        """On the server at ``url``, found fit. Misconfigured says in one sentence what isn't so."""
        try:
            await require_fit(url, settings.store.timeout_s)
        except Misconfigured as error:
            raise Misconfigured(f"sealed.guard: {error.detail}") from None
        transport = Pipelines(settings.store.model_copy(update={"url": url}))
        sealed = settings.sealed
        return cls(transport, Keys(settings.store.prefix), sealed.ttl_s + SPARE_S, sealed.guard_answer_s)

    async def look(self, mark: Mark) -> GuardAnswer:
        return await self._transport.call(self._call(mark))

    async def accept(self, mark: Mark, made: Sealed) -> GuardAnswer:
        return await self._transport.call(self._call(mark, made.state_id, made.text))

    async def aclose(self) -> None:
        await self._transport.aclose()

    def _call(self, mark: Mark, *made: Argument) -> Call[GuardAnswer]:
        asked: tuple[Argument, ...] = (mark.turn_seq, mark.state_id, mark.turn_id, mark.fingerprint)
        keys = self._keys.of_sealed(mark.key)
        return Call(SCRIPTS["newest"], keys, (*asked, self._ttl_ms, self._answer_ms, *made), _decoded)


def _decoded(reply: Any) -> GuardAnswer:
    match reply[0]:
        case b"ok":
            return _OK
        case b"repeated":
            # A Lua table ends at its first nil, or false.
            return Repeated(reply[1].decode() if len(reply) > 1 and reply[1] else None)
        case b"mismatch":
            return Mismatch()
        case b"superseded":
            return Superseded(reply[1])
    raise StoreUnavailable(f"The script 'newest' gave an answer that isn't in its header: {reply[0]!r}.")
