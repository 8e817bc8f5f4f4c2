"""``POST /chat/sealed``: a turn of a conversation that its client keeps. Plain ASGI, as ``POST /chat`` is.

Which conversation it is, the state says: its id can be said once more (``X-Session-Id``, ``session_id``), but not
chosen. Without a state a conversation begins; its id is derived from the turn id, so that a repeat begins the same one.
"""

from __future__ import annotations

import hmac

from actors.api_headers import ANY_TURN, edge_secret, if_match, picked
from actors.api_request import RequestReader, checked_metadata, parsed, stream_wanted
from actors.api_telling import Client, Telling, refusal
from actors.asgi import ClientGone, Receive, Scope, Send, send_answer
from actors.errors import BadRequest, PreconditionFailed, RehydraError
from actors.model import SessionKey, TurnRequest, fingerprint_of
from actors.sealed import Opened
from actors.sealed_errors import SealedOff
from actors.sealed_keys import sealer_of
from actors.sealed_turn import SealedRequest, SealedTurns
from actors.service import Service


class SealedRoute:
    """The ASGI handler of ``POST /chat/sealed``. Misconfigured if there are keys that are none."""

    def __init__(self, service: Service) -> None:
        self._reader = RequestReader(service)
        self._telling = Telling(service)
        self._tenant = service.settings.store.tenant
        self._secret = edge_secret(service.settings)
        sealer = sealer_of(service.settings)
        self._turns = SealedTurns(service, sealer) if sealer is not None else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            headers = picked(scope["headers"], self._reader.right_pass)
            body = await self._reader.body(headers, scope, receive)
            if (turns := self._turns) is None:
                raise SealedOff("Set sealed.keys or sealed.keys_file, the same for all hosts.")
            asked, stream = await self._asked(turns, headers, body)
        except RehydraError as error:
            await send_answer(send, refusal(error))
            return
        except ClientGone:
            return

        async def tell(requester: Client) -> None:
            try:
                end = await turns.answer(asked, requester)
            except RehydraError as error:
                end = error
            await requester.finish(turns.weakened(end) if isinstance(end, RehydraError) else end)

        request = asked.request
        await self._telling.answer(tell, request.key.session_id, request.turn_id, stream, scope, receive, send)

    async def _asked(self, turns: SealedTurns, headers: dict[bytes, str], body: bytes) -> tuple[SealedRequest, bool]:
        """The turn that is asked for, and whether as a stream."""
        document = parsed(body)
        message = self._reader.message(document)
        metadata = checked_metadata(document.get("metadata"))
        stream = stream_wanted(headers, document)
        turn_id, hashed = self._reader.turn_id(headers)
        expected = if_match(headers.get(b"if-match"))
        state = document.get("state")
        if state is not None and (not isinstance(state, str) or not state):
            raise BadRequest("state is a text: the one of the last answer. It is left out to begin a conversation.")
        try:
            opened = await turns.open(state) if state is not None else None
        except RehydraError as error:
            raise turns.weakened(error) from error
        session_id = opened.session_id if opened is not None else self._derived(hashed)
        _require_same(headers.get(b"x-session-id"), opened)
        _require_same(document.get("session_id"), opened)
        if headers.get(b"if-match") == ANY_TURN and opened is None:
            raise PreconditionFailed("The conversation has no turn yet.", turn_seq=0)
        key = SessionKey(session_id, self._tenant)
        request = TurnRequest(key, turn_id, fingerprint_of(message, metadata), message, metadata, expected)
        return SealedRequest(request, opened), stream

    def _derived(self, turn_id: str) -> str:
        # Not as a session's id is: the two are kept in different places, and shouldn't be mixed up.
        return hmac.digest(self._secret, b"sealed " + turn_id.encode("latin-1"), "sha256").hex()[:32]


def _require_same(named: object, opened: Opened | None) -> None:
    """BadRequest if the request names another conversation than its state, or one that has no state yet."""
    if named is None or (opened is not None and named == opened.session_id):
        return
    if opened is None:
        raise BadRequest("A session id comes with a state: that of a new sealed conversation can't be chosen.")
    raise BadRequest("The session id that is named and the one in the state differ.")
