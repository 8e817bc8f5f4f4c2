"""What HAProxy is told at its start. Pure: settings and servers in, text out.

The rules say how a request finds its owner (DESIGN §2): the session id from the header, the body or the path; else one
derived from the turn id, so that a repeat finds the same session; its shard by xxh32; the shard's slot by the map. All
of it is a hint (I7): a request whose owner is down, or died under it, goes to any live host, which copes.

What comes from outside under the edge's own names is deleted before anything reads it, and paths for hosts among
themselves don't exist out here. What the edge says under these names hosts believe because of the pass that it adds.
The text holds that pass, and the secret, so the file is for its owner only. Nothing in it changes while HAProxy runs:
servers and map change by ``admin``.
"""

from __future__ import annotations

import base64
import hmac
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

from actors.errors import HeadTooLarge, Misconfigured, PathUnknown, TargetTooLong
from actors.model import Member
from actors.settings import Settings
from router.edge.answers import KEYED, NoHost, answer, own_answers
from router.shards import SHARDS

BACKEND: Final = "hosts"
ANY_HOST: Final = "any-host"
"""The same servers once more, for requests that need no owner: they go where the fewest connections are."""
THREADS_MAX: Final = 4
"""HAProxy's threads: one answers tens of thousands of requests a second, so a large machine needn't give all."""

_SPARE_S: Final = 30
"""By how much the edge waits longer than a host: whoever ends a request must be the host."""
_BASE64: Final = re.compile(r"[A-Za-z0-9+/]+={0,2}")
_PATH: Final = re.compile(r"[A-Za-z0-9/._-]+")
_RUN_DIR_MAX: Final = 80
"""Characters: HAProxy binds its socket under a longer name first, and such names are short."""

HEADERS_READ_MAX: Final = 1024
"""Header lines that HAProxy reads at all, if the settings allow no more. Over ``http.headers_max`` a request gets a
problem document; over this, HAProxy's own short page."""


@dataclass(frozen=True, slots=True)
class Server:
    """A host as HAProxy is to know it: an IP address and two ports."""

    slot: str
    address: str
    port: int
    check_port: int


@dataclass(frozen=True, slots=True)
class Paths:
    """The files of one HAProxy, in a folder of its own."""

    run_dir: str

    @classmethod
    def of(cls, run_dir: str) -> Paths:
        """Misconfigured if HAProxy couldn't read or bind names in that folder."""
        folder = os.path.abspath(run_dir)
        if _PATH.fullmatch(folder) is None or len(folder) > _RUN_DIR_MAX:
            raise Misconfigured(f"edge.run_dir {folder!r} must be {_RUN_DIR_MAX} of A-Z a-z 0-9 / . _ - at most.")
        return cls(folder)

    @property
    def config(self) -> str:
        return os.path.join(self.run_dir, "haproxy.cfg")

    @property
    def map(self) -> str:
        return os.path.join(self.run_dir, "shards.map")

    @property
    def socket(self) -> str:
        return os.path.join(self.run_dir, "admin.sock")

    @property
    def pid(self) -> str:
        return os.path.join(self.run_dir, "haproxy.pid")

    @property
    def lock(self) -> str:
        return os.path.join(self.run_dir, "lock")

    @property
    def edge(self) -> str:
        """Names the Edge that cares for this HAProxy now."""
        return os.path.join(self.run_dir, "edge")


def server_of(member: Member, address: str) -> Server:
    """``address`` is the IP address of the member's host."""
    return Server(member.slot, address, int(member.address.rpartition(":")[2]), member.health_port)


def shard_map(slot_of_shard: Iterable[str]) -> Iterable[str]:
    """The lines of HAProxy's map: shard and slot. Shards that nobody owns are left out."""
    return (f"{shard} {slot}" for shard, slot in enumerate(slot_of_shard) if slot)


def render(settings: Settings, paths: Paths, servers: Iterable[Server] = ()) -> str:
    """haproxy.cfg. Its first line tells two configurations apart, whatever servers they were started with."""
    front = "\n".join((_global(settings, paths), _defaults(settings), _frontend(settings, paths), _any_host(settings)))
    backend = _backend(settings)
    digest = blake2b(f"{front}\n{backend}".encode(), digest_size=8).hexdigest()
    known = {server.slot: server for server in servers}
    slots = [f"slot-{number}" for number in range(settings.ring.slots_max)]
    lines = [_server(slot, known.get(slot)) for slot in slots]
    return "\n".join((f"# rehydra-edge {digest}", front, *lines, backend, *lines, ""))


def _server(slot: str, server: Server | None) -> str:
    if server is None:
        return f"    server {slot} 127.0.0.1:1 port 1 disabled"
    return f"    server {slot} {_joined(server.address, server.port)} port {server.check_port}"


def _joined(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _global(settings: Settings, paths: Paths) -> str:
    edge = settings.edge
    return f"""
global
    maxconn {edge.connections_max + 64}
    nbthread {min(THREADS_MAX, os.cpu_count() or 1)}
    tune.bufsize {edge.buffer_bytes}
    tune.http.maxhdr {max(HEADERS_READ_MAX, settings.http.headers_max + 16)}
    # One that was replaced finishes what it has; no request takes longer.
    hard-stop-after {_wait_s(settings)}s
    # Or two stacks that were given one port would share it, and each get half of the other's requests.
    noreuseport
    stats socket {paths.socket} mode 600 level admin expose-fd listeners
    stats timeout 30s"""


def _defaults(settings: Settings) -> str:
    edge, wait_s = settings.edge, _wait_s(settings)
    return f"""
defaults
    mode http
    unique-id-format %[uuid]
    timeout connect {edge.connect_timeout_ms}ms
    timeout client {wait_s}s
    timeout server {wait_s}s
    timeout queue 5s
    timeout http-request {int(settings.http.body_s) or 1}s
    timeout http-keep-alive 60s
    timeout check {edge.check_interval_ms}ms
    # A reply comes in pieces that somebody reads as they come.
    option http-no-delay
    # One that was replaced closes an idle connection with its next answer, not under a request that is on its way.
    option idle-close-on-response
    # A request whose host died under it is repeated on the others, with the same headers: safe, because a turn whose
    # id is known is never applied twice (I3). Many tries, and one host after the other: a dead host that no check has
    # found yet refuses at once, and would use them up.
    option redispatch 1
    retries 20
    retry-on conn-failure empty-response response-timeout
{own_answers()}"""


def _wait_s(settings: Settings) -> int:
    """The longest that a request may take."""
    session = settings.session
    return int(max(settings.agent.deadline_s, session.request_wait_s) + session.commit_patience_s + _SPARE_S)


def _frontend(settings: Settings, paths: Paths) -> str:
    edge = settings.edge
    key = edge.secret.get_secret_value()
    http = settings.http
    hidden = answer(PathUnknown("There is nothing at this path."))
    too_long = answer(TargetTooLong(f"At most {http.head_bytes_max} bytes are allowed."))
    too_large = answer(HeadTooLarge(f"At most {http.head_bytes_max} bytes in {http.headers_max} lines are allowed."))
    nobody = answer(NoHost("No host is alive; none has seen this request."), KEYED)
    return f"""
frontend edge
    bind {_joined(edge.bind, edge.port)}
    maxconn {edge.connections_max}
    # HTTP/1.1 alone, also for whoever begins with HTTP/2 unasked: only that is measured and tested.
    option disable-h2-upgrade
    # The whole request, up to the buffer: for the id in its body, and to be able to repeat it.
    option http-buffer-request
    # Measured as hosts measure it (actors.listener), so that both refuse the same requests.
    http-request set-var(txn.headers_bytes) req.hdrs,length
    http-request return {too_long} if {{ url,length gt {http.head_bytes_max} }}
    http-request return {too_large} if {{ url,length,add(txn.headers_bytes) gt {http.head_bytes_max} }}
    http-request return {too_large} if {{ req.fhdr_cnt gt {http.headers_max} }}
    http-request return {hidden} if {{ path,url_dec -m reg -i ^/+internal(/|$) }}
    http-request return {nobody} if {{ nbsrv({BACKEND}) eq 0 }}

    # Nothing here speaks another protocol. A host refuses whoever asks for one; the edge only doesn't pass it on.
    http-request del-header upgrade
    http-request del-header x-rehydra- -m beg
    http-request del-header x-request-timeout-seconds
    http-request del-header x-request-disconnect-disabled
    http-request set-header x-rehydra-pass {_internal_pass(key)}
    http-request set-header x-rehydra-request %[unique-id]
    http-response del-header x-rehydra- -m beg

    acl named var(txn.session) -m found
    acl keyed req.fhdr(idempotency-key) -m found
    http-request set-var(txn.session) req.fhdr(x-session-id)
    http-request set-var(txn.session) req.body,json_query('$.session_id') if !named METH_POST
    http-request set-var(txn.session) path,field(3,/),url_dec if !named {{ path_beg /sessions/ }}
    http-request set-var-fmt(txn.turn) k:%[req.fhdr(idempotency-key)] if !named METH_POST keyed
    http-request set-var-fmt(txn.turn) r:%[unique-id] if !named METH_POST !keyed
    http-request set-header x-rehydra-session %[var(txn.turn),hmac(sha256,{key}),hex,lower,bytes(0,32)] \
if !named METH_POST
    http-request set-var(txn.session) req.fhdr(x-rehydra-session) if !named METH_POST
    http-request set-var(txn.slot) var(txn.session),xxh32,mod({SHARDS}),map_str({paths.map}) if named
    # Their clients bring all that there is of these conversations; and reading needs no lease, only the store.
    use_backend {ANY_HOST} if METH_POST {{ path /chat/sealed }}
    use_backend {ANY_HOST} if METH_GET {{ path_beg /sessions/ }}
    default_backend {BACKEND}"""


def _internal_pass(key: str) -> str:
    """By which hosts know the edge and each other; they compute the same (``actors.api_headers``)."""
    if _BASE64.fullmatch(key) is None:
        raise Misconfigured("edge.secret must be written in base64.")
    try:
        secret = base64.b64decode(key, validate=True)
    except ValueError as error:
        raise Misconfigured("edge.secret must be written in base64.") from error
    return hmac.digest(secret, b"rehydra internal", "sha256").hex()[:32]


def _any_host(settings: Settings) -> str:
    return f"""
backend {ANY_HOST}
    balance leastconn
    http-reuse always
{_CHECK}
    # A host that died a moment ago has the fewest connections of all: every retry would go there until a check has
    # found it. So the first connection that it refuses counts as one.
    default-server {_checked(settings)} observe layer4 error-limit 1 on-error mark-down"""


_CHECK: Final = """\
    option httpchk
    http-check send meth GET uri /healthz ver HTTP/1.1 hdr host rehydra
    http-check expect status 200"""


def _checked(settings: Settings) -> str:
    every_ms = settings.edge.check_interval_ms
    return f"check inter {every_ms}ms fastinter {every_ms // 2 or 1}ms fall 2 rise 1"


def _backend(settings: Settings) -> str:
    return f"""
backend {BACKEND}
    balance roundrobin
    http-reuse always
{_CHECK}
    # What else is only looked at (/ring, /docs) is the same on all hosts.
    use-server %[var(txn.slot)] if {{ var(txn.slot) -m found }} !METH_GET
    # What hangs on one that is down is ended from outside, a moment later: router.edge.hung.
    default-server {_checked(settings)}
    # {settings.ring.slots_max} slots"""
