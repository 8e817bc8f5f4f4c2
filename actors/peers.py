"""The other hosts over HTTP: passing a request on, handing waiting turns over, telling of a deletion.

A request is passed on as the same ``POST /chat`` with the turn's id, the number of hops, the incarnation that is
meant, and the pass without which none of that would be believed; the answer's status, headers and bytes go to the
client as they are. A JSON answer is sent on only when it is whole; a stream is sent on in whole frames, so that
whatever breaks off, the client holds no half of anything and the next attempt's ``turn`` can void it.

How a failure is told apart:

- the connection is refused: nobody listens there (``REFUSED``);
- a pooled connection turns out to be closed: that says nothing about the host, so the request is sent once more on a
  fresh one (the turn's id makes that harmless) and the fresh one's outcome counts. If that one is refused, the outcome
  is ``BROKEN`` all the same: the first one may have been taken. Whoever asks again is refused at once;
- a fresh connection breaks, or the answer ends too early: ``BROKEN``.

There is no time-out on an answer but ``session.request_wait_s``: whoever waits knows better when the other is dead,
and cancels. What this deliberately does not do: decide whether a host is dead, or try another one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, Final, Protocol, runtime_checkable

import aiohttp
from pydantic_core import to_json

from actors.api_answers import Answer, Headers
from actors.api_headers import PASS, edge_secret, internal_pass
from actors.model import HostRef, SessionKey, TurnRequest
from actors.ports import Passed, Requester
from actors.settings import Settings
from actors.sse import EVENT_STREAM, holds_final

log = logging.getLogger("rehydra.peers")

ENVELOPE_BYTES: Final = 65_536
"""Room for an answer's fields beside the reply itself."""

NOT_PASSED_ON: Final = frozenset({b"connection", b"keep-alive", b"transfer-encoding", b"date", b"server"})
_SKIPPED: Final = ("User-Agent", "Accept", "Accept-Encoding")


@runtime_checkable
class RelayTarget(Protocol):
    """A requester that takes another host's bytes: both HTTP requesters are."""

    stream: bool

    async def relay(self, answer: Answer) -> None:
        """A whole answer; the final one."""
        ...

    async def relay_frames(self, frames: bytes, headers: Headers) -> None:
        """Whole frames of a stream that has these headers; it has ended if they include the final one."""
        ...


class HttpPeers:
    """``ports.Peers`` over HTTP. Connections are pooled; construct it inside the loop and ``aclose`` it."""

    def __init__(self, settings: Settings) -> None:
        self._wait_s = settings.session.request_wait_s
        self._hand_off_s = settings.http.hand_off_s
        # A reply of control characters takes six bytes each in JSON.
        self._answer_bytes_max = 6 * settings.agent.reply_bytes_max + ENVELOPE_BYTES
        self._internal = {"content-type": "application/json", PASS.decode(): internal_pass(edge_secret(settings))}
        self._pooled = _client(settings, keep=True)
        self._fresh = _client(settings, keep=False)

    async def aclose(self) -> None:
        """Close all connections. Idempotent."""
        await self._pooled.close()
        await self._fresh.close()

    # --- passing on -------------------------------------------------------------------------------------------------

    async def pass_on(self, to: HostRef, request: TurnRequest, requester: Requester, hops: int) -> Passed:
        """See ``ports.Peers``. ``requester`` must be a :class:`RelayTarget`."""
        if not isinstance(requester, RelayTarget):
            raise TypeError(f"{type(requester).__name__} can't take another host's bytes.")
        headers, body = _passed_on(to, request, requester.stream, hops)
        headers |= self._internal
        try:
            async with asyncio.timeout(self._wait_s):
                response = await self._post(f"http://{to.address}/chat", headers, body)
                # Leaving the block gives a connection back that was read to its end and closes any other.
                async with response:
                    return await self._hand_through(response, requester)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            passed = Passed.REFUSED if _refused(error) else Passed.BROKEN
            log.info("passing on failed", extra={"to": to.address, "passed": passed.value, "error": _told(error)})
            return passed

    async def _hand_through(self, response: aiohttp.ClientResponse, target: RelayTarget) -> Passed:
        if response.status == 421:
            return Passed.STRANGER
        headers = _headers_of(response)
        if response.headers.get("content-type", "").encode().startswith(EVENT_STREAM):
            return await self._hand_frames_through(response, headers, target)
        body = await _whole_body(response, self._answer_bytes_max)
        if body is None:
            return Passed.BROKEN
        await target.relay(Answer(response.status, headers, body))
        return Passed.FINISHED

    async def _hand_frames_through(
        self, response: aiohttp.ClientResponse, headers: Headers, target: RelayTarget
    ) -> Passed:
        """Frames as they come; a piece without its end waits for it. FINISHED only after the final frame."""
        rest = b""
        async for chunk in response.content.iter_any():
            frames, separator, rest = (rest + chunk).rpartition(b"\n\n")
            if separator:
                await target.relay_frames(frames + separator, headers)
                if holds_final(frames):
                    return Passed.FINISHED
            elif len(rest) > self._answer_bytes_max:
                break
        return Passed.BROKEN

    async def _post(self, url: str, headers: dict[str, str], body: bytes) -> aiohttp.ClientResponse:
        """Send; once more if a pooled connection turns out to be closed before a byte of the answer came."""
        used = SimpleNamespace(pooled=False)
        try:
            return await self._pooled.post(
                url, data=body, headers=headers, allow_redirects=False, trace_request_ctx=used
            )
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
            if not used.pooled or isinstance(error, aiohttp.ClientConnectorError):
                raise
            broken = error
        try:
            # Not from the pool again: what else is in it may be just as dead.
            return await self._fresh.post(url, data=body, headers=headers, allow_redirects=False)
        except aiohttp.ClientConnectorError as refusal:
            # REFUSED means "not taken", which holds of the second sending only: the first one broke off, and may have
            # been taken by a host that died over it.
            raise broken from refusal

    # --- handing over -----------------------------------------------------------------------------------------------

    async def hand_off(self, to: HostRef, key: SessionKey, batch: Sequence[TurnRequest], under: int) -> bool:
        """See ``ports.Peers``."""
        return await self._tell(to, "hand-off", key, under=under, batch=[_entry(turn) for turn in batch])

    async def tell_deleted(self, to: HostRef, key: SessionKey) -> bool:
        """See ``ports.Peers``."""
        return await self._tell(to, "deleted", key)

    async def _tell(self, to: HostRef, what: str, key: SessionKey, **more: Any) -> bool:
        """Whether ``to`` has confirmed it within ``hand_off_s``. What is told may be told twice."""
        headers = {**self._internal, "x-rehydra-to": to.incarnation}
        document = to_json({"session_id": key.session_id, "tenant": key.tenant, **more})
        try:
            async with asyncio.timeout(self._hand_off_s):
                response = await self._post(f"http://{to.address}/internal/{what}", headers, document)
                async with response:
                    return 200 <= response.status < 300
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            log.info("a host didn't confirm", extra={"what": what, "to": to.address, "error": _told(error)})
            return False


def _client(settings: Settings, keep: bool) -> aiohttp.ClientSession:
    reuse = aiohttp.TraceConfig()
    reuse.on_connection_reuseconn.append(_note_reuse)
    # As many connections as there can be requests here at one time: nobody waits for one of the pool.
    limit = settings.http.connections_max
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=limit, force_close=not keep),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=settings.http.connect_s),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        skip_auto_headers=_SKIPPED,
        trace_configs=[reuse],
    )


def _passed_on(to: HostRef, request: TurnRequest, stream: bool, hops: int) -> tuple[dict[str, str], bytes]:
    headers = {
        "x-session-id": request.key.session_id,
        "x-rehydra-to": to.incarnation,
        "x-rehydra-hops": str(hops),
        "x-rehydra-turn": request.turn_id,
        "x-rehydra-tenant": request.key.tenant,
    }
    if request.named_by >= 0:
        headers["x-rehydra-ring"] = str(request.named_by)
    if request.if_match is not None:
        headers["if-match"] = f'"{request.if_match}"'
    return headers, to_json({"message": request.message, "metadata": request.metadata, "stream": stream})


def _entry(turn: TurnRequest) -> dict[str, Any]:
    return {
        "turn_id": turn.turn_id,
        "message": turn.message,
        "metadata": turn.metadata,
        "if_match": turn.if_match,
        "named_by": turn.named_by,
    }


def _headers_of(response: aiohttp.ClientResponse) -> Headers:
    lowered = ((name.lower(), value) for name, value in response.raw_headers)
    return [(name, value) for name, value in lowered if name not in NOT_PASSED_ON]


async def _whole_body(response: aiohttp.ClientResponse, bytes_max: int) -> bytes | None:
    """The body, or None if it is longer than an answer can be. Raises if it breaks off."""
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > bytes_max:
            return None
    return bytes(body)


def _told(error: BaseException) -> str:
    """For the log. Not ``repr``: aiohttp's errors show the request's headers in theirs, and with them the pass."""
    return f"{type(error).__name__}: {error}"


def _refused(error: BaseException) -> bool:
    return isinstance(error, aiohttp.ClientConnectorError) and isinstance(error.os_error, ConnectionRefusedError)


async def _note_reuse(
    session: aiohttp.ClientSession, context: SimpleNamespace, params: aiohttp.TraceConnectionReuseconnParams
) -> None:
    if (used := context.trace_request_ctx) is not None:
        used.pooled = True
