"""One host: the activations in its memory, and the way of a request to the one host that may answer it.

What runs at the same time: every request in its own task (``chat``), every busy activation in its own
(``session.Activation._work``), the releases of passivated sessions in up to ``releases_max`` more. They meet only in
the map of activations, which is changed without an await between the look and the change.

A request's way: resident here, then the mailbox. Otherwise, if nobody has passed it on yet, the owner that the ring
names. Otherwise claim: granted, then the mailbox; held by a live host, then on to that host; held by a dead one, then
take it over. The ring is asked again only where more is known than by whoever passed the request on, a lease every
time, so two hosts with different rings can't send a request to and fro for ever (I7).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from typing import Any

from actors.agent import Agent, window_of
from actors.claims import Claims
from actors.deleting import delete
from actors.errors import RehydraError, SessionDeleted, SessionUnknown, Unreachable, WaitedTooLong
from actors.following import follow, tell_whole, weakened
from actors.lifecycle import Reason
from actors.model import HostRef, SessionKey, TurnRequest
from actors.opening import opened
from actors.ports import Done, Passed, Peers, Placement, Requester
from actors.residents import Residents
from actors.session import Activation
from actors.settings import Settings
from actors.stores.base import Deleted, Missing, SessionStore, Turns, Watched
from actors.ticket import Elsewhere, Ticket
from actors.untold import Untold

log = logging.getLogger("rehydra.host")


class Host:
    """The sessions of one host. Construct it inside a running event loop; ``close`` it after ``drain``."""

    def __init__(
        self,
        ref: HostRef,
        store: SessionStore,
        agent: Agent,
        placement: Placement,
        peers: Peers,
        settings: Settings,
        new_token: Callable[[], str],
        now_ms: Callable[[], int],
        threads: Executor | None = None,
    ) -> None:
        self.ref = ref
        self.store = store
        self.agent = agent
        self.window = window_of(agent)
        self.placement = placement
        self.peers = peers
        self.settings = settings
        self.new_token = new_token
        self.now_ms = now_ms
        self.threads = threads
        self.claims = Claims(settings.session.activations_max)
        self._residents = Residents(settings.session, self._must_leave, self.spawn)
        # One bound method for all activations: each would else have one of its own.
        self.resized: Callable[[int], None] = self._residents.resized
        self._handing_off: dict[SessionKey, HostRef] = {}
        self._chats = 0
        self._untold = Untold()
        self._tasks: set[asyncio.Task[None]] = set()
        self._draining = False
        self._settled = asyncio.Event()
        """Set while nothing is in memory, nothing runs, and nobody waits for an answer."""
        self._settled.set()
        self._counts = {"turns": 0, "activations": 0, "passed_on": 0, "regressed": 0, "failures": 0}
        self._loop = asyncio.get_running_loop()

    # --- requests ----------------------------------------------------------------------------------------------

    async def chat(self, request: TurnRequest, requester: Requester, hops: int = 0) -> None:
        """Have the turn run, wherever that is, and give ``requester`` its one final answer.

        Cancelling this call (the client has gone) doesn't stop the turn. ``hops``: how often it was passed on.
        """
        self._chats += 1
        self._settled.clear()
        try:
            try:
                async with asyncio.timeout(self.settings.session.request_wait_s):
                    final = await self._answer(request, requester, hops)
            except TimeoutError:
                final = WaitedTooLong(retry_after_s=1)
            if final is not None:
                if isinstance(final, Done) and not final.replayed:
                    self._counts["turns"] += 1
                await requester.finish(final)
        finally:
            self._chats -= 1
            self._note_settled()

    async def _answer(self, request: TurnRequest, requester: Requester, hops: int) -> Done | RehydraError | None:
        """The final answer, or None if another host has given it to the requester."""
        asks_left = self.settings.session.hops_max if hops == 0 or self._may_ask_again(request, hops) else 0
        doubtful = stays = False
        pause_s = 0.0
        while True:
            activation = self._residents.get(request.key)
            to = self._named(request.key, hops, asks_left > 0 and not stays) if activation is None else None
            named_by = self.placement.ring_version if to is not None else -1
            if to is None:
                if activation is None and (told := self._untold.take(request.key)) is not None:
                    return told
                activation = activation or self._activate(request.key)
                entry = activation.submit(request)
                if isinstance(entry, Done):
                    await tell_whole(requester, entry)
                    return entry
                if isinstance(entry, RehydraError):
                    # Refused without the store having been asked: true only if this host is no ghost.
                    return weakened(entry, doubtful or not activation.entitled)
                self._residents.touch(request.key)
                end = await follow(entry, requester)
                doubtful |= entry.shared
                if not isinstance(end, Elsewhere):
                    return weakened(end, doubtful)
                if hops >= self.settings.session.hops_max:
                    return Unreachable(f"Passed on {hops} times.", retry_after_s=1)
                to = end.to
            passed = await self._pass_on(to, replace(request, named_by=named_by), requester, hops + 1)
            if passed is Passed.FINISHED:
                return None
            # Whoever is dead has an heir on the ring. If it only can't be reached, the session is served where the
            # request landed; unless the lease leads back to it, and it turns out to be dead.
            asks_left = max(0, asks_left - 1)
            stays = passed is Passed.BROKEN and not self.placement.is_dead(to)
            doubtful |= passed is Passed.BROKEN
            # It can't be reached, or broke off: look again who holds the lease, soon and then less often.
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2 + 0.01, 0.5)

    async def accept_batch(self, key: SessionKey, batch: Sequence[TurnRequest], under: int) -> bool:
        """Another host hands waiting turns over, for the epoch ``under``. They go before this host's own arrivals; its
        release follows. False: not taken, because this host has the session under another epoch."""
        self.placement.heard(max((request.named_by for request in batch), default=-1))
        activation = self._residents.get(key) or self._activate(key)
        return activation.accept_batch(batch, under, self._loop.time() + self.settings.session.handoff_wait_s)

    async def delete(self, key: SessionKey, turn_id: str) -> None:
        """Delete the session, whoever holds it. SessionUnknown, or StoreUnavailable if it stays unknown."""
        await delete(self, key, turn_id)

    def deleted(self, key: SessionKey) -> None:
        """The session was deleted, through this host or another: nothing in memory is answered from any more."""
        if (activation := self._residents.get(key)) is not None:
            activation.deleted()

    async def open(self, key: SessionKey) -> tuple[Turns, bool]:
        """Make the session, if there is none: its first turn, how many it has, and whether it is new."""
        return await opened(self, key)

    async def read(self, key: SessionKey, after: int, limit: int) -> Turns:
        """Committed turns after turn_seq ``after``. SessionUnknown, SessionDeleted, StoreUnavailable."""
        answer = await self.store.read(key, after, limit)
        if isinstance(answer, Deleted):
            raise SessionDeleted
        if isinstance(answer, Missing):
            raise SessionUnknown(f"Session {key.session_id!r} was never made, or has expired.")
        return answer

    # --- passing on ----------------------------------------------------------------------------------------------

    def _may_ask_again(self, request: TurnRequest, hops: int) -> bool:
        """Whether the ring is asked for a request that was passed on to this host.

        By an older ring than its own: whoever did so missed a change. Versions grow along the way, so nothing goes
        round for ever (I7). Or by a lease that it no longer has: it would claim again what has just moved. Then a hop
        is kept for the case that somebody else claims first."""
        self.placement.heard(request.named_by)
        hops_max = self.settings.session.hops_max - (request.named_by < 0)
        return hops < hops_max and request.named_by < self.placement.ring_version

    def _named(self, key: SessionKey, hops: int, may_ask_ring: bool) -> HostRef | None:
        """Who is named for a session that isn't here: whom it is being handed off to, or the ring's owner; if that one
        is dead, who is going to be the owner when it is off the ring, so that the session doesn't move twice."""
        to = self._handing_off.get(key) if hops < self.settings.session.hops_max else None
        if to is not None or not may_ask_ring:
            return to
        return self.must_move(key) or self._other(self.placement.heir(key.session_id))

    async def _pass_on(self, to: HostRef, request: TurnRequest, requester: Requester, hops: int) -> Passed:
        """How it ended; BROKEN also if ``to`` is dead, which may have taken the request before.

        A frozen host accepts connections and says nothing, so the wait ends when it is known to be dead.
        """
        self._counts["passed_on"] += 1
        passing = asyncio.create_task(self.peers.pass_on(to, request, requester, hops))
        death = asyncio.create_task(self.placement.wait_dead(to))
        try:
            await asyncio.wait((passing, death), return_when=asyncio.FIRST_COMPLETED)
        finally:
            death.cancel()
            if not passing.done():
                passing.cancel()
        try:
            passed = await passing
        except asyncio.CancelledError:
            if (me := asyncio.current_task()) is not None and me.cancelling():
                raise
            passed = Passed.BROKEN
        if passed in (Passed.REFUSED, Passed.STRANGER):
            self.placement.refused(to, stranger=passed is Passed.STRANGER)
        return passed

    # --- the map -------------------------------------------------------------------------------------------------

    def _activate(self, key: SessionKey) -> Activation:
        activation = Activation(self, key)
        self._counts["activations"] += 1
        self._settled.clear()
        self._residents.add(activation)
        return activation

    def forget(self, activation: Activation, reason: Reason) -> None:
        """Out of the map, now. Called by the activation itself when its phase ends, without an await in between."""
        self._residents.remove(activation, reason)
        if reason is Reason.FAILED:
            self._counts["failures"] += 1
        self._note_settled()

    def again(self, key: SessionKey, tickets: Sequence[Ticket]) -> None:
        """A new activation takes over the tickets of one that has just been forgotten, in their order."""
        activation = self._residents.get(key) or self._activate(key)
        activation.adopt(tickets)

    def regressed(self, key: SessionKey, mine: int, stored: int, told: bool) -> None:
        """The store has lost confirmed turns of this session. Not ``told``: no client waits, so the next one that
        comes here is told."""
        self._counts["regressed"] += 1
        log.error("state regressed", extra={"session": str(key), "turn_seq": stored, "turn_seq_lost": mine})
        if not told:
            self._untold.note(key, mine, stored)

    # --- leaving memory --------------------------------------------------------------------------------------------

    def must_move(self, key: SessionKey) -> HostRef | None:
        """The owner by the ring, if that is another host which isn't known to be dead.

        Not if another host's ring, as new as this one's, has brought the session here: a session moves once per change.
        """
        activation = self._residents.get(key)
        if activation is not None and activation.named_by >= self.placement.ring_version and not self._draining:
            return None
        return self._other(self.placement.owner(key.session_id))

    def _other(self, host: HostRef | None) -> HostRef | None:
        """That host, if it is another one than this, and not known to be dead."""
        if host is None or host.incarnation == self.ref.incarnation or self.placement.is_dead(host):
            return None
        return host

    def _must_leave(self, key: SessionKey) -> Reason | None:
        """Why this session shouldn't stay in memory here."""
        if self._draining:
            return Reason.DRAIN
        return Reason.HANDOFF if self.must_move(key) is not None else None

    def let_go(self, activation: Activation) -> None:
        """It has become idle: release it if it shouldn't stay."""
        self._residents.let_go(activation.key)

    def ring_changed(self) -> None:
        """The ring is another: release what is idle here and belongs elsewhere; busy sessions notice by themselves."""
        self._residents.review()

    # --- the end ---------------------------------------------------------------------------------------------------

    async def drain(self, within_s: float) -> None:
        """Everything out of memory, every lease given back, within that time. The caller has left the table.

        The ring decides where the waiting turns go; without a ring (this was the last host) they are run to the end.
        Requests that come or are on their way meanwhile are waited for. Optional (I9): a killed host's sessions are
        taken over instead.
        """
        self._draining = True
        self.ring_changed()
        try:
            async with asyncio.timeout(within_s):
                await self._settled.wait()
        except TimeoutError:
            log.warning("drain ended with sessions in memory", extra={"resident": len(self._residents)})

    async def close(self) -> None:
        """Stop timers. Idempotent."""
        self._residents.close()

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run in the background, kept alive, waited for by ``drain``, and its failure logged."""
        task = self._loop.create_task(work)
        self._tasks.add(task)
        self._settled.clear()
        task.add_done_callback(self._spawned_ended)
        return task

    def handing_off(self, key: SessionKey, owner: HostRef) -> None:
        """From now on arrivals for this session go to ``owner``, which waits for the lease that is being released."""
        self._handing_off[key] = owner

    def handed_off(self, key: SessionKey) -> None:
        """The release has ended, one way or the other."""
        self._handing_off.pop(key, None)

    def _note_settled(self) -> None:
        if not (len(self._residents) or self._tasks or self._chats):
            self._settled.set()

    def _spawned_ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._note_settled()
        if not task.cancelled() and (error := task.exception()) is not None:
            self._counts["failures"] += 1
            log.error("background task failed", exc_info=error)

    def overdue(self) -> int:
        """Sessions that are stuck: at one claim, or one turn, for longer than all its limits together allow."""
        return self._residents.overdue(self.settings.step_max_s)

    def stats(self) -> dict[str, Any]:
        """Counts since the start, and what is in memory now."""
        return {
            **self._counts,
            **self._residents.stats(),
            "claims_most": self.claims.most,
            "draining": self._draining,
            **({"store": self.store.stats()} if isinstance(self.store, Watched) else {}),
        }
