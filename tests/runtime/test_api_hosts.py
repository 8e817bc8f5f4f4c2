"""The real host behind the real surface: several hosts on one store, talking to each other over real sockets."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from actors.agent import Agent, Conversation
from actors.agents.chained import chained, chained_reply
from actors.agents.echo import echo
from actors.api import Api
from actors.host import Host
from actors.listener import Listener
from actors.model import HostRef, Table, TurnRequest
from actors.peers import HttpPeers
from actors.ports import Requester
from actors.settings import Settings
from actors.stores.guard import Guard
from actors.stores.memory import MemoryStore
from tests.runtime.api_world import Raw, Wire, ask, chat, events, request_bytes, settings_with, wire
from tests.runtime.api_world import World as Served


class Ring:
    """A placement that a test sets by hand; shared by all hosts."""

    def __init__(self) -> None:
        self.ring_version = 1
        self.owner_now: HostRef | None = None
        self.dead: set[str] = set()
        self.lapses = 0
        self._changed = asyncio.Event()

    def owner(self, session_id: str) -> HostRef | None:
        return self.owner_now

    def is_dead(self, host: HostRef) -> bool:
        return host.incarnation in self.dead

    async def surely_dead(self, host: HostRef) -> bool:
        return self.is_dead(host)

    def heard(self, ring_version: int) -> None: ...

    def heir(self, session_id: str) -> HostRef | None:
        return None

    def refused(self, host: HostRef, stranger: bool = False) -> None:
        self.dead.add(host.incarnation)
        self._changed.set()

    async def wait_dead(self, host: HostRef) -> None:
        while not self.is_dead(host):
            self._changed.clear()
            await self._changed.wait()

    def trusted(self) -> bool:
        return True

    async def wait_trusted(self) -> None:
        return


class Watched(Host):
    """A host that tells in which order requests came to it."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.arrived: list[str] = []
        self._news = asyncio.Condition()

    async def chat(self, request: TurnRequest, requester: Requester, hops: int = 0) -> None:
        self.arrived.append(request.message)
        async with self._news:
            self._news.notify_all()
        await super().chat(request, requester, hops)

    async def requests(self, count: int) -> None:
        """Wait until so many have come."""
        async with self._news:
            await self._news.wait_for(lambda: len(self.arrived) >= count)


class Member:
    """One host with its surroundings: a ``Service``."""

    def __init__(
        self, number: int, store: MemoryStore, ring: Ring, agent: Agent, tokens: Callable[[], str], settings: Settings
    ) -> None:
        self.settings = settings
        self.guard: Guard | None = None
        self.table = Table(1)
        self.listener = Listener(Api(self), self.settings.http)
        self.peers = HttpPeers(self.settings)
        ref = HostRef(f"inc-{number}", f"slot-{number}", self.listener.bind())
        self.host = Watched(ref, store, agent, ring, self.peers, self.settings, tokens, lambda: 1)

    async def not_ready(self) -> Sequence[str]:
        return ()

    def served(self) -> Served:
        """As the helpers of ``api_world`` want it."""
        return Served(self.host, self.settings, address=self.listener.address)  # type: ignore[arg-type]

    async def end(self) -> None:
        await self.listener.aclose(0.2)
        await self.peers.aclose()
        await self.host.close()


class Cluster:
    def __init__(self, agent: Agent, settings: Settings) -> None:
        loop = asyncio.get_running_loop()
        self.ring = Ring()
        store = MemoryStore(lambda: int(loop.time() * 1000), 3600)
        counter = itertools.count()
        self.members = [
            Member(n, store, self.ring, agent, lambda: f"token-{next(counter)}", settings) for n in range(2)
        ]
        self.ring.owner_now = self.members[0].host.ref
        self.one, self.two = (member.served() for member in self.members)

    def move(self, to: int) -> None:
        self.ring.owner_now = self.members[to].host.ref
        self.ring.ring_version += 1
        for member in self.members:
            member.host.ring_changed()


@asynccontextmanager
async def cluster(agent: Agent = echo, groups: dict[str, dict[str, Any]] | None = None) -> AsyncIterator[Cluster]:
    made = Cluster(agent, settings_with(**({"session": {"idle_s": 30.0}} | (groups or {}))))
    for member in made.members:
        await member.listener.start()
    try:
        async with asyncio.timeout(30):
            yield made
    finally:
        for member in made.members:
            await member.end()


async def all_turns(world: Served, session_id: str) -> list[dict[str, Any]]:
    limit = world.settings.http.turns_page_max
    found: list[dict[str, Any]] = (await ask(world, "GET", f"/sessions/{session_id}/turns?limit={limit}")).json["turns"]
    return found


async def test_a_session_is_new_then_resident_and_rehydrated_where_it_moves() -> None:
    async with cluster() as made:
        states = [(await chat(made.one, {"message": "a", "session_id": "s"})).header("x-session-state")]
        states.append((await chat(made.one, {"message": "b", "session_id": "s"})).header("x-session-state"))
        made.move(1)
        moved = await chat(made.two, {"message": "c", "session_id": "s"})
        states.append(moved.header("x-session-state"))
        assert states == ["new", "resident", "rehydrated"]
        streamed = {"session_id": "t", "stream": True}
        states = [(await chat(made.two, {"message": "a"} | streamed)).header("x-session-state")]
        states.append((await chat(made.one, {"message": "b"} | streamed)).header("x-session-state"))
        made.move(0)
        states.append((await chat(made.one, {"message": "c"} | streamed)).header("x-session-state"))
        assert states == ["new", "resident", "rehydrated"], "a stream's head says it too, passed on or not"
        assert (moved.json["turn_seq"], moved.header("x-served-by")) == (3, "slot-1")


async def test_a_session_can_be_made_before_its_first_message_once_and_anywhere() -> None:
    async with cluster() as made:
        body = b'{"session_id": "s"}'
        first = await ask(made.two, "POST", "/sessions", body)
        assert (first.status, first.json) == (201, {"session_id": "s", "turn_seq": 0, "created_ms": None})
        assert (first.header("location"), first.header("etag")) == ("/sessions/s", '"0"')
        for world in (made.one, made.two):
            again = await ask(world, "POST", "/sessions", None, ("X-Session-Id", "s"))
            assert (again.status, again.json) == (200, first.json)
            assert (await ask(world, "GET", "/sessions/s")).json == first.json
        # Nobody holds it: its owner takes it at its first message.
        answer = await chat(made.two, {"message": "m", "session_id": "s"}, ("If-Match", '"0"'))
        assert (answer.json["turn_seq"], answer.header("x-served-by")) == (1, "slot-0")
        assert (await ask(made.one, "POST", "/sessions", body)).json["turn_seq"] == 1
        assert (await chat(made.two, {"message": "m", "session_id": "s"})).header("x-session-state") == "resident"
        await ask(made.one, "DELETE", "/sessions/s")
        assert (await ask(made.two, "POST", "/sessions", body)).status == 410


async def test_a_session_without_a_name_is_made_once_per_key() -> None:
    async with cluster() as made:
        keyed = [
            await ask(world, "POST", "/sessions", None, ("Idempotency-Key", "k")) for world in (made.one, made.two)
        ]
        assert [answer.status for answer in keyed] == [201, 200]
        assert keyed[0].json == keyed[1].json
        bare = [await ask(made.one, "POST", "/sessions", b"{}") for _ in range(2)]
        assert len({answer.json["session_id"] for answer in (*keyed, *bare)}) == 3


async def test_making_a_session_while_a_chat_begins_it_harms_neither() -> None:
    async with cluster() as made:
        for number in range(20):
            name = {"session_id": f"s{number}"}
            worlds = (made.one, made.two)[:: 1 if number % 2 else -1]
            answers = await asyncio.gather(
                *(chat(world, {"message": f"m{n}", **name}) for n, world in enumerate(worlds)),
                *(ask(world, "POST", "/sessions", b'{"session_id": "s%d"}' % number) for world in worlds),
            )
            assert [answer.status for answer in answers[:2]] == [200, 200]
            assert {answer.status for answer in answers[2:]} <= {200, 201}
            assert len(await all_turns(made.one, f"s{number}")) == 2


async def test_a_request_at_the_wrong_host_is_answered_by_the_owner() -> None:
    async with cluster() as made:
        for stream in (False, True):
            answer = await chat(made.two, {"message": "hello", "session_id": "s", "stream": stream})
            assert answer.header("x-served-by") == "slot-0"
        assert events(answer.body)[-1][2]["turn_seq"] == 2
        assert [turn["turn_seq"] for turn in await all_turns(made.two, "s")] == [1, 2]


async def test_a_hundred_messages_at_once_become_a_hundred_turns_each_after_the_other() -> None:
    async with cluster(chained) as made:
        worlds = [made.one, made.two]
        answers = await asyncio.gather(
            *(
                chat(worlds[n % 2], {"message": f"m{n}", "session_id": "s"}, ("Idempotency-Key", f"{n}"))
                for n in range(100)
            )
        )
        assert [answer.status for answer in answers] == [200] * 100
        turns = await all_turns(made.one, "s")
        assert sorted(turn["turn_id"] for turn in turns) == sorted(f"k:{n}" for n in range(100))
        past: list[tuple[str, str]] = []
        for turn in turns:
            assert turn["reply"] == chained_reply(past, turn["message"])
            past.append((turn["message"], turn["reply"]))


async def test_a_hundred_waiting_turns_move_with_their_session_in_order_and_every_client_is_answered() -> None:
    first_runs, go_on = asyncio.Event(), asyncio.Event()

    async def gated(conversation: Conversation) -> AsyncIterator[str]:
        yield "so "
        if conversation.message == "m0":
            first_runs.set()
            await go_on.wait()
        yield conversation.message

    async with cluster(gated) as made:

        async def send(number: int) -> Raw:
            return await chat(made.one, {"message": f"m{number}", "session_id": "s", "stream": number % 2 == 1})

        first = asyncio.create_task(send(0))
        await first_runs.wait()
        rest = [asyncio.create_task(send(number)) for number in range(1, 101)]
        await made.members[0].host.requests(101)
        made.move(1)
        go_on.set()
        answers = await asyncio.gather(first, *rest)
        assert [answer.status for answer in answers] == [200] * 101
        turns = await all_turns(made.two, "s")
        assert [turn["message"] for turn in turns] == made.members[0].host.arrived
        assert {answer.header("x-served-by") for answer in answers[1:]} == {"slot-1"}
        for number, answer in enumerate(answers):
            if number % 2:
                told = events(answer.body)
                assert (told[-1][0], told[-1][2]["reply"]) == ("done", f"so m{number}")
            else:
                assert answer.json["reply"] == f"so m{number}"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_holder_that_dies_under_a_passed_on_request_is_taken_over(stream: bool) -> None:
    runs = asyncio.Event()

    async def stuck_once(conversation: Conversation) -> AsyncIterator[str]:
        yield "from "
        if not runs.is_set():
            runs.set()
            await asyncio.Event().wait()
        yield "the second"

    async with cluster(stuck_once) as made:
        request = asyncio.create_task(chat(made.two, {"message": "m", "session_id": "s", "stream": stream}))
        await runs.wait()
        # The holder is gone: its connections break, and its address refuses.
        await made.members[0].listener.aclose(0)
        answer = await request
        assert answer.status == 200
        final = events(answer.body)[-1][2] if stream else answer.json
        assert (final["reply"], final["turn_seq"]) == ("from the second", 1)
        if stream:
            told = [event for event, _, _ in events(answer.body)]
            last_turn = len(told) - 1 - told[::-1].index("turn")
            said = [data["text"] for event, _, data in events(answer.body)[last_turn:] if event == "delta"]
            assert "".join(said) == "from the second"


async def test_a_recorded_turn_is_streamed_under_its_etag_and_state() -> None:
    async with cluster() as made:
        asked = {"message": "m", "session_id": "s"}, ("Idempotency-Key", "k")
        await chat(made.one, *asked)
        answer = await chat(made.one, asked[0] | {"stream": True}, asked[1])
        assert [event for event, _, _ in events(answer.body)] == ["turn", "delta", "done"]
        assert (answer.header("etag"), answer.header("x-session-state")) == ('"1"', "resident")


async def test_a_deleted_session_answers_gone_to_readers_and_writers() -> None:
    async with cluster() as made:
        await chat(made.one, {"message": "m", "session_id": "s"})
        assert (await ask(made.two, "DELETE", "/sessions/s")).status == 204
        for answer in (
            await ask(made.one, "GET", "/sessions/s"),
            await ask(made.two, "GET", "/sessions/s/turns"),
            await chat(made.one, {"message": "again", "session_id": "s"}),
            await chat(made.two, {"message": "again", "session_id": "s", "stream": True}),
        ):
            assert (answer.status, answer.json["type"]) == (410, "urn:rehydra:problem:session-deleted")


async def test_a_client_that_leaves_a_relayed_stream_has_its_turn_committed() -> None:
    runs, go_on = asyncio.Event(), asyncio.Event()

    async def gated(conversation: Conversation) -> AsyncIterator[str]:
        yield "a"
        runs.set()
        await go_on.wait()
        yield "b"

    async with cluster(gated) as made:
        async with wire(made.two.port) as connection:
            body = b'{"message": "m", "session_id": "s", "stream": true}'
            await _begin(connection, body)
            await runs.wait()
        go_on.set()
        assert (await chat(made.one, {"message": "next", "session_id": "s"})).json["turn_seq"] == 2
        assert (await all_turns(made.one, "s"))[0]["reply"] == "ab"


async def _begin(connection: Wire, body: bytes) -> None:
    await connection.send(request_bytes("POST", "/chat", body))
    await connection.head()
