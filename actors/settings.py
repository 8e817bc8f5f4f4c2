"""Every limit and every choice, one group per concern, each with its unit and its consequence.

Read in one place: ``Settings.load(args)`` takes the Serve config's ``args``, then ``REHYDRA_<GROUP>__<NAME>`` from
the environment (``REHYDRA_STORE__URL``), then the defaults below. Relations between settings are validated here, so
that no module has to doubt its numbers. One number may differ from host to host: its weight (``of_this_host``).
"""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address
from typing import Any, Final, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from actors.errors import Misconfigured

KEPT_S_MAX: Final = 1e9
"""Some thirty years, in seconds: more than that the store can't count in ms from now."""
EDGE_SPARE_BYTES: Final = 16_384
"""HAProxy's buffer also takes what it adds to a request, and how it keeps one in memory."""

HOST_WEIGHT: Final = "REHYDRA_HOST_WEIGHT"
"""The weight of the hosts that run in this environment; ``ring.host_weight`` is that of all who have no such name."""
WEIGHT_MAX: Final = 64
"""A host has ``ring.vnodes`` points for each unit, and every host and edge computes them."""

PUBLIC_SECRET: Final = "cmVoeWRyYS1kZXZlbG9wbWVudC1rZXk="
"""What ``edge.secret`` is until somebody sets one. Anybody can read it here, so it guards nothing."""


class Group(BaseModel):
    """A concern's settings. Unknown names are refused: a typing error must not become a default."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class AgentSettings(Group):
    path: str = Field("actors.agents.recall:recall", description="The agent, as `module:attribute`.")
    deadline_s: float = Field(120.0, gt=0, description="Longest time one attempt of the agent may take, seconds.")
    grace_s: float = Field(5.0, gt=0, description="How long an agent past its deadline may take to stop, seconds.")
    reply_bytes_max: int = Field(1 << 20, gt=0, description="Longest reply, bytes of UTF-8; over it the turn fails.")
    state_bytes_max: int = Field(1 << 18, gt=0, description="Largest durable state, bytes of JSON.")
    threads_max: int = Field(64, gt=0, description="Threads for synchronous agents; further turns wait for one.")
    abandoned_max: int = Field(64, gt=0, description="Attempts that ignore their end; beyond it turns fail at once.")


class SessionSettings(Group):
    ttl_s: float = Field(
        604_800.0, ge=0, le=KEPT_S_MAX, description="A session expires after this long without a turn; 0 = never."
    )
    tombstone_s: float = Field(
        86_400.0, gt=0, le=KEPT_S_MAX, description="How long a deleted session answers 410, seconds."
    )
    idle_s: float = Field(300.0, gt=0, description="A resident session passivates after this long without a turn.")
    resident_max: int = Field(100_000, gt=0, description="Sessions in memory per host; the least recently used go.")
    resident_bytes_max: int = Field(2 << 30, gt=0, description="Bytes of turns and state in memory per host.")
    log_bytes_max: int = Field(64 << 20, gt=0, description="Bytes of one session's turns; beyond it 409.")
    mailbox_max: int = Field(128, gt=0, description="Messages that may wait per session; beyond it 429.")
    attachments_max: int = Field(64, gt=0, description="Requests that may wait for one and the same turn.")
    message_bytes_max: int = Field(1 << 18, gt=0, description="Longest message, bytes of UTF-8; over it 413.")
    body_bytes_max: int = Field(400_000, gt=0, description="Largest request body, bytes; over it 413.")
    request_wait_s: float = Field(300.0, gt=0, description="Longest time a request waits for its turn, seconds.")
    commit_patience_s: float = Field(15.0, gt=0, description="How long an unanswered commit is repeated, seconds.")
    claim_patience_s: float = Field(15.0, gt=0, description="How long an unanswered claim is repeated, seconds.")
    handoff_wait_s: float = Field(30.0, gt=0, description="How long a handed-over batch waits for the lease, seconds.")
    restarts_max: int = Field(3, gt=0, description="How often a turn is run anew, as its commit stayed unknown.")
    takeovers_max: int = Field(3, gt=0, description="Takeovers without a commit before a turn counts as poison.")
    suspect_pause_s: float = Field(5.0, ge=0, description="Pause before the third host runs a turn that stopped two.")
    hops_max: int = Field(6, gt=0, description="How often one request may be passed on between hosts.")
    releases_max: int = Field(128, gt=0, description="Leases released at one time when many sessions leave.")
    activations_max: int = Field(16, gt=0, description="Claims of one host at one time; the others wait their turn.")
    drain_stream_s: float = Field(30.0, gt=0, description="How long a leaving host lets turns and streams run.")


class StoreSettings(Group):
    url: str = Field(
        "redis://127.0.0.1:6379/0",
        description="`redis://`, `rediss://`, `postgresql://`, `dynamodb://` or `mongodb://` URL,"
        " `hybrid+redis://…+postgresql://…`, or `memory://`.",
    )
    prefix: str = Field(
        "rehydra", pattern=r"^[A-Za-z0-9._-]{1,32}$", description="First part of every key; in PostgreSQL, the schema."
    )
    tenant: str = Field("-", pattern=r"^[A-Za-z0-9._-]{1,64}$", description="Whose sessions these are.")
    timeout_s: float = Field(2.0, gt=0, description="Longest wait for one answer of the store, seconds.")
    connections_max: int = Field(8, gt=0, description="Connections of one host to the store.")
    page_bytes_max: int = Field(8 << 20, gt=0, description="Bytes of turns in one page, which ends early then.")
    pipeline_bytes_max: int = Field(1 << 20, gt=0, description="Bytes that one pipeline may carry.")
    pipeline_calls_max: int = Field(128, gt=0, description="Calls that one pipeline may carry.")
    sweep_s: float = Field(60.0, gt=0, description="Time between two sweeps of what has expired (PostgreSQL), seconds.")
    ack: str = Field(
        "durable",
        pattern=r"^(durable|hot)$",
        description="Of a hybrid store: a turn is confirmed once it is in PostgreSQL (`durable`), or in Redis (`hot`).",
    )
    lag_max_s: float = Field(
        5.0, gt=0, description="`hot`: PostgreSQL's lag at which turns are confirmed by it again, seconds."
    )
    hot_ttl_s: float = Field(
        86_400.0,
        gt=0,
        le=KEPT_S_MAX,
        description="How long the Redis of a hybrid store keeps an idle session.",
    )
    waiting_max: int = Field(20_000, gt=0, description="Calls of one host that may wait for the store; beyond it 503.")


class SealedSettings(Group):
    keys: SecretStr = Field(
        SecretStr(""),
        description="Base64 keys of 32 bytes for `POST /chat/sealed`, separated by commas, the newest first: it seals,"
        " all open; the same everywhere. Empty = there are no sealed conversations. Make one with"
        " `openssl rand -base64 32`.",
    )
    keys_file: str = Field("", description="File with those keys instead, one a line, that others can't read.")
    agent: str = Field("", description="Name that states are bound to; empty = `agent.path`.")
    schema_version: int = Field(
        1, ge=1, lt=1 << 32, description="Version of what the agent keeps; states are sealed under it."
    )
    schema_version_min: int = Field(1, ge=1, description="Oldest such version that is still taken; below it 409.")
    ttl_s: float = Field(
        604_800.0, ge=0, le=KEPT_S_MAX, description="How long a state is taken after it was sealed; 0 = always."
    )
    state_bytes_max: int = Field(1 << 18, ge=1024, description="Longest state, bytes as it is sent; over it 413.")
    opened_bytes_max: int = Field(
        2 << 20, ge=1024, description="Largest state when it is opened, bytes of turns and state; over it 413."
    )
    running_max: int = Field(256, gt=0, description="Sealed turns that one host runs at one time; beyond it 503.")
    guard: str = Field(
        "",
        description="Replay guard: a `redis://` URL, or `store` for `store.url`'s; only the newest state of a"
        " conversation is taken then. Empty = none: nothing is kept, and older states are taken, too.",
    )
    guard_answer_s: float = Field(
        600.0, gt=0, le=KEPT_S_MAX, description="How long the guard keeps an answer for a repeat, seconds."
    )


class RingSettings(Group):
    slots_max: int = Field(64, gt=0, le=1024, description="Slots on the ring; hosts beyond it wait as spares.")
    vnodes: int = Field(1024, gt=0, description="Points per slot and unit of weight on the hash ring.")
    host_weight: int = Field(
        1,
        gt=0,
        le=WEIGHT_MAX,
        description="A host's share of the sessions relative to the others', where its machine has no"
        f" `{HOST_WEIGHT}` of its own.",
    )
    beat_interval_s: float = Field(0.5, gt=0, description="Time between two beats of a host, seconds.")
    beat_ttl_s: float = Field(2.0, gt=0, description="A host whose beats were missed for this long is dead, seconds.")
    loop_stall_s: float = Field(30.0, gt=0, description="Beats stop when the event loop hasn't run for this long.")


class HttpSettings(Group):
    bind: str = Field(
        "127.0.0.1",
        description="Address that hosts listen on; empty = the node's own, which hosts on several nodes need.",
    )
    port_min: int = Field(0, ge=0, le=65535, description="First port for hosts' listeners; 0 = any free one.")
    port_max: int = Field(0, ge=0, le=65535, description="Last port for hosts' listeners.")
    connections_max: int = Field(4096, gt=0, description="Open connections per host.")
    ping_s: float = Field(15.0, gt=0, description="Time between two comment pings on a silent stream, seconds.")
    delta_gap_s: float = Field(
        0.005, ge=0, le=1, description="What is said so soon after a delta waits, and is one delta then, seconds."
    )
    body_s: float = Field(30.0, gt=0, description="Longest time a client may take to send a body, seconds.")
    turns_page_max: int = Field(500, gt=0, description="Most turns in one page of GET /sessions/{id}/turns.")
    head_bytes_max: int = Field(65_536, ge=1024, description="Longest path and headers, bytes; over it 414 or 431.")
    headers_max: int = Field(100, ge=16, le=16_384, description="Most header lines of a request; beyond it 431.")
    keep_alive_s: float = Field(75.0, gt=0, description="An idle connection is closed after this long, seconds.")
    connect_s: float = Field(1.0, gt=0, description="Longest wait for a connection to another host, seconds.")
    hand_off_s: float = Field(5.0, gt=0, description="Longest wait until another host confirms a batch, or a deletion.")


class EdgeSettings(Group):
    kind: str = Field("haproxy", pattern=r"^(haproxy|serve)$", description="`haproxy`, or `serve` for Serve's proxy.")
    bind: str = Field("127.0.0.1", description="Address that the edge listens on.")
    port: int = Field(8000, gt=0, le=65535, description="Port that clients talk to.")
    run_dir: str = Field("", description="Folder for HAProxy's config, pid and socket; empty = one per port.")
    secret: SecretStr = Field(
        SecretStr(PUBLIC_SECRET),
        description="Base64 key by which hosts and edge trust each other's headers, and from which ids of new sessions"
        " are derived; the same everywhere. The default is public: refused unless `http.bind` and `edge.bind` are"
        " loopback. Make one with `openssl rand -base64 32`.",
    )
    connections_max: int = Field(512, gt=0, description="Connections that the edge accepts at one time.")
    buffer_bytes: int = Field(524_288, ge=65_536, description="HAProxy's buffer: what fits is repeated on failure.")
    check_interval_ms: int = Field(500, gt=0, description="Time between two health checks of a host.")
    connect_timeout_ms: int = Field(250, gt=0, description="How long the edge waits for a connection to a host.")
    poll_s: float = Field(0.25, gt=0, description="Time between two looks of the edge at the membership table.")


class LogSettings(Group):
    level: str = Field("INFO", pattern=r"^(DEBUG|INFO|WARNING|ERROR)$", description="Least level that is written.")
    folder: str = Field("", description="Folder in which each process writes a file; empty = standard error.")
    file_bytes_max: int = Field(10 << 20, gt=0, description="Size of such a file, bytes; one older one is kept.")


class Settings(BaseSettings):
    """All settings. Frozen; make changed copies with ``model_copy`` in tests."""

    model_config = SettingsConfigDict(
        env_prefix="REHYDRA_",
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        nested_model_default_partial_update=True,
    )

    agent: AgentSettings = AgentSettings()
    session: SessionSettings = SessionSettings()
    store: StoreSettings = StoreSettings()
    sealed: SealedSettings = SealedSettings()
    ring: RingSettings = RingSettings()
    http: HttpSettings = HttpSettings()
    edge: EdgeSettings = EdgeSettings()
    log: LogSettings = LogSettings()

    @classmethod
    def load(cls, args: Mapping[str, Any] | None = None) -> Self:
        """From ``args`` (nested by group), then the environment, then the defaults."""
        return cls(**dict(args or {}))

    @property
    def step_max_s(self) -> float:
        """The longest that a session may be at one claim, or at one turn: all of its limits together."""
        session, agent = self.session, self.agent
        asked_s = session.claim_patience_s + session.commit_patience_s
        return agent.deadline_s + agent.grace_s + session.handoff_wait_s + session.suspect_pause_s + 3 * asked_s

    @model_validator(mode="after")
    def _relations(self) -> Self:
        session, ring = self.session, self.ring
        if ring.beat_interval_s * 3 > ring.beat_ttl_s:
            raise ValueError("ring.beat_interval_s * 3 must not exceed ring.beat_ttl_s: one lost beat is no death.")
        if session.ttl_s and session.ttl_s <= session.idle_s + self.agent.deadline_s + session.commit_patience_s:
            raise ValueError(
                "session.ttl_s must exceed session.idle_s + agent.deadline_s + session.commit_patience_s,"
                " or sessions expire while they are in memory."
            )
        if session.message_bytes_max > session.body_bytes_max:
            raise ValueError("session.message_bytes_max must not exceed session.body_bytes_max.")
        whole_bytes = session.body_bytes_max + self.http.head_bytes_max + EDGE_SPARE_BYTES
        if self.edge.kind == "haproxy" and whole_bytes > self.edge.buffer_bytes:
            raise ValueError(
                "edge.buffer_bytes must exceed session.body_bytes_max and http.head_bytes_max together by 16 KiB:"
                " only what fits is repeated."
            )
        self._sealed_relations()
        if session.request_wait_s < self.agent.deadline_s:
            raise ValueError("session.request_wait_s must be at least agent.deadline_s.")
        if (self.http.port_min == 0) != (self.http.port_max == 0) or self.http.port_min > self.http.port_max:
            raise ValueError("http.port_min and http.port_max must both be 0, or a range.")
        public = self.edge.secret.get_secret_value() == PUBLIC_SECRET
        if public and not (is_loopback(self.http.bind) and is_loopback(self.edge.bind)):
            raise ValueError(
                "edge.secret is the public default, which is good for this machine alone:"
                " set one of your own, the same for all hosts (openssl rand -base64 32),"
                " or let http.bind and edge.bind be 127.0.0.1."
            )
        return self

    def _sealed_relations(self) -> None:
        sealed = self.sealed
        if sealed.keys_file and sealed.keys.get_secret_value():
            raise ValueError("sealed.keys and sealed.keys_file are both set: which key is the newest?")
        on = bool(sealed.keys_file or sealed.keys.get_secret_value())
        if on and sealed.state_bytes_max >= self.session.body_bytes_max:
            raise ValueError("sealed.state_bytes_max must be below session.body_bytes_max: a message comes with it.")
        if sealed.schema_version_min > sealed.schema_version:
            raise ValueError("sealed.schema_version_min must not exceed sealed.schema_version.")
        if sealed.guard and not sealed.ttl_s:
            raise ValueError("sealed.guard needs a sealed.ttl_s: it remembers each conversation for as long.")


def of_this_host(settings: Settings, environ: Mapping[str, str]) -> Settings:
    """``settings`` as they are for a host in that environment: with its own weight, if that has one.

    For hosts alone, where they run: all other settings are an application's, and the same everywhere. Misconfigured if
    it isn't a whole number from 1 to ``WEIGHT_MAX``.
    """
    # In any letters' case, as all other names of settings.
    text = next((value for name, value in environ.items() if name.upper() == HOST_WEIGHT), None)
    if text is None:
        return settings
    weight = int(text) if text.isascii() and text.isdigit() else 0
    if not 1 <= weight <= WEIGHT_MAX:
        raise Misconfigured(f"{HOST_WEIGHT} must be a whole number from 1 to {WEIGHT_MAX}, not {text!r}.")
    return settings.model_copy(update={"ring": settings.ring.model_copy(update={"host_weight": weight})})


def is_loopback(address: str) -> bool:
    """Whether only this machine reaches it. "" is not: it stands for an address that isn't known yet."""
    try:
        return ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"
