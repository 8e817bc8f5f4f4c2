"""Server-sent events: the frames of a streamed turn, and the requester that writes them.

A stream is ``turn`` ``delta``... ``done`` | ``error``. The texts of the deltas since the last ``turn``, put together,
are the reply that ``done`` carries: when a turn had to start again, or was computed by another attempt than the one
that streamed, a new ``turn`` voids what came before it.

Two tasks meet here. The request's own task puts frames (``turn``, ``delta``, ``finish``, or another host's frames
through ``relay_*``); the writer (``write``) is the only one that sends, so that a ping never falls into a frame and
all that is ready goes out in one piece. What the turn says within ``gap_s`` after a delta has left waits until that is
over (``quiet_s``), and is one delta then: each costs this host, the edge and the client as much as a short turn, and
nobody reads that fast. The first delta and the end never wait. Nothing is sent before the first frame, or the first
silence of ``ping_s``: until then an error gets its own HTTP status, and the edge may repeat the request elsewhere.

The head of a stream has an ``ETag`` only if the turn was committed before (a repeat gets the recorded one): otherwise
it leaves before anybody knows which turn this will be, and ``done`` says it. A head that leaves with a ping, because
the turn waits for so long, doesn't know how its session is found either, and has no ``X-Session-State``.

What this deliberately does not do: keep events for a reconnecting client. The same Idempotency-Key gets the reply.
"""

from __future__ import annotations

import asyncio
from typing import Final

from pydantic_core import from_json, to_json

from actors.api_answers import (
    NO_STORE,
    Answer,
    Headers,
    done_document,
    problem_answer,
    problem_document,
    state_header,
    turn_headers,
)
from actors.asgi import Send, send_answer
from actors.errors import RehydraError
from actors.ports import Done, Residence
from actors.ports import Final as FinalAnswer

PING: Final = b": ping\n\n"
EVENT_STREAM: Final = b"text/event-stream"
WAITING_BYTES_MAX: Final = 65_536
"""Bytes of frames that wait for a slow client before the turn's teller waits too; the turn itself never does."""

_STREAM_HEADERS: Final[Headers] = [(b"content-type", EVENT_STREAM), NO_STORE, (b"x-accel-buffering", b"no")]


class ClientStalled(Exception):
    """The client hasn't taken a byte for too long; it is treated as gone."""


def frame(event: bytes, event_id: str, data: bytes) -> bytes:
    """One event. ``data`` is JSON in one line. The event's name comes first: peers look for the final one there."""
    return b"event: %b\nid: %b\ndata: %b\n\n" % (event, event_id.encode(), data)


def holds_final(frames: bytes) -> bool:
    """Whether these whole frames include the stream's last event."""
    return any(frames.startswith(final) or b"\n\n" + final in frames for final in (b"event: done\n", b"event: error\n"))


class StreamRequester:
    """A client that wants its turn as a stream. Run ``write`` beside ``host.chat``; it returns after the last byte."""

    stream = True

    def __init__(
        self, send: Send, session_id: str, served_by: tuple[bytes, bytes], ping_s: float, stall_s: float, gap_s: float
    ) -> None:
        self._send = send
        self._session_id = session_id
        self._served_by = served_by
        self._headers: Headers = [*_STREAM_HEADERS, (b"x-session-id", session_id.encode()), served_by]
        self._told: Headers = []
        """What is known of the turn; it counts until the head leaves."""
        self._ping_s = ping_s
        self._stall_s = stall_s
        self._gap_s = gap_s
        self._loop = asyncio.get_running_loop()
        self._gap_until = 0.0
        self._after_gap: asyncio.TimerHandle | None = None
        self._frames: list[bytes] = []
        self._frames_bytes = 0
        self._whole: Answer | None = None
        self._begun = False
        self._head_sent = False
        self._finished = False
        self._complete = False
        self._epoch = 0
        self._events = 0
        self._said: list[str] | None = None
        """What this host has streamed since its last ``turn``; None before it, and once another host's frames came."""
        self._news = asyncio.Event()
        self._room = asyncio.Event()

    # --- told by the host ------------------------------------------------------------------------------------------

    @property
    def begun(self) -> bool:
        """Whether bytes have been sent, or are certain to be."""
        return self._begun

    @property
    def finished(self) -> bool:
        """Whether the final answer has been given."""
        return self._finished

    async def turn(self, turn_id: str, epoch: int, residence: Residence) -> None:
        if not self._finished:
            self._told = [state_header(residence)]
            self._put_turn(turn_id, epoch)
            await self._wait_for_room()

    async def delta(self, text: str) -> None:
        if text and not self._finished:
            self._put_delta(text)
            await self._wait_for_room()

    def quiet_s(self) -> float:
        return self._gap_until - self._loop.time()

    async def finish(self, final: FinalAnswer) -> None:
        """Idempotent: a relay that was cut short after its last frame may be followed by another answer."""
        if self._finished:
            return
        if isinstance(final, Done):
            # A recorded turn is told and ended before the writer has had its turn.
            self._told = turn_headers(final)
            self._put_done(final)
        elif self._begun:
            self._put("error", problem_document(final, self._session_id))
        else:
            self._whole = problem_answer(final, self._served_by, session_id=self._session_id)
        self._end()

    def _put_turn(self, turn_id: str, epoch: int) -> None:
        self._epoch, self._events, self._said = epoch, 0, []
        self._put("turn", to_json({"session_id": self._session_id, "turn_id": turn_id, "epoch": epoch}))

    def _put_delta(self, text: str) -> None:
        if self._said is not None:
            self._said.append(text)
        self._put("delta", to_json({"text": text}))

    def _put_done(self, done: Done) -> None:
        turn = done.turn
        if self._said is None or self._epoch != turn.epoch or "".join(self._said) != turn.reply:
            # What the client has seen is nothing, or isn't this reply: another attempt was committed.
            self._put_turn(turn.turn_id, turn.epoch)
            if turn.reply:
                self._put_delta(turn.reply)
        self._put("done", done_document(self._session_id, done))

    def _put(self, event: str, data: bytes) -> None:
        self._events += 1
        self._put_frames(frame(event.encode(), f"{self._epoch}-{self._events}", data))

    # --- told by another host ---------------------------------------------------------------------------------------

    async def relay(self, answer: Answer) -> None:
        """Another host's whole answer: a problem, as it answers those that never began to stream."""
        if self._finished:
            return
        if not self._begun:
            self._whole = answer
        elif answer.status == 200:
            self._put("done", answer.body)
        else:
            self._put("error", answer.body if _is_object(answer.body) else problem_document(RehydraError()))
        self._end()

    async def relay_frames(self, frames: bytes, headers: Headers) -> None:
        """Whole frames of another host, unchanged; the final one ends the stream. Its headers count if nothing was
        sent yet."""
        if self._finished:
            return
        if not self._begun:
            self._headers, self._told = headers, []
        self._said = None
        self._follow(frames)
        self._put_frames(frames)
        if holds_final(frames):
            # At once: whoever gives the other host up while this waits for room must find the answer given.
            self._end()
        else:
            await self._wait_for_room()

    def _follow(self, frames: bytes) -> None:
        """Own events go on counting from the last id that the client gets."""
        _, found, rest = frames.rpartition(b"\nid: ")
        epoch, dash, number = rest.partition(b"\n")[0].partition(b"-")
        if found and dash and epoch.isdigit() and number.isdigit():
            self._epoch, self._events = int(epoch), int(number)

    # --- the writer -------------------------------------------------------------------------------------------------

    async def write(self) -> None:
        """Send frames as they come, pings on silence, and the end. Returns once the answer is complete.

        ClientStalled if the client takes nothing for ``stall_s``.
        """
        while not self._complete:
            if not await self._news_within(self._ping_s):
                self._put_frames(PING)
            self._news.clear()
            if self._whole is not None:
                await send_answer(self._send, self._whole)
                return
            await self._flush()

    async def _news_within(self, seconds: float) -> bool:
        if self._news.is_set():
            return True
        try:
            async with asyncio.timeout(seconds):
                return await self._news.wait()
        except TimeoutError:
            return False

    async def _flush(self) -> None:
        try:
            async with asyncio.timeout(self._stall_s):
                if not self._head_sent:
                    self._head_sent = True
                    await self._send(
                        {"type": "http.response.start", "status": 200, "headers": [*self._headers, *self._told]}
                    )
                body, self._frames, self._frames_bytes = b"".join(self._frames), [], 0
                self._begin_gap()
                # The last frames and the end of the body leave together; what comes while this waits goes next.
                self._complete = self._finished
                await self._send({"type": "http.response.body", "body": body, "more_body": not self._complete})
        except TimeoutError as error:
            raise ClientStalled from error
        self._room.set()

    def _put_frames(self, frames: bytes) -> None:
        self._begun = True
        self._frames.append(frames)
        self._frames_bytes += len(frames)
        if self._frames_bytes > WAITING_BYTES_MAX or self._loop.time() >= self._gap_until:
            self._news.set()
        elif self._after_gap is None:
            self._after_gap = self._loop.call_at(self._gap_until, self._news.set)

    def _begin_gap(self) -> None:
        if self._after_gap is not None:
            self._after_gap.cancel()
            self._after_gap = None
        if self._events > 1:
            # More than the stream's beginning leaves now.
            self._gap_until = self._loop.time() + self._gap_s

    async def _wait_for_room(self) -> None:
        while self._frames_bytes > WAITING_BYTES_MAX:
            self._room.clear()
            await self._room.wait()

    def _end(self) -> None:
        self._finished = True
        self._news.set()


def _is_object(body: bytes) -> bool:
    try:
        return isinstance(from_json(body), dict)
    except ValueError:
        return False
