"""What the documentation says of ``POST /chat/sealed``; ``actors.api_sealed`` answers it."""

# No "from __future__ import annotations" here: FastAPI reads the annotations.

from typing import Annotated, Any

from fastapi import FastAPI, Header

from actors.api_begin import Key
from actors.api_models import (
    CHAT_HEADERS,
    IF_MATCH,
    IF_MATCH_SAYS,
    SEALING,
    STREAM,
    SealedChatReply,
    SealedChatRequest,
    answers,
)

_DONE: dict[str, Any] = {"description": "The turn, and the new state.", "content": STREAM, "headers": CHAT_HEADERS}


def add_sealed(app: FastAPI) -> None:
    """``POST /chat/sealed``."""

    @app.post(
        "/chat/sealed",
        tags=["chat"],
        response_model=SealedChatReply,
        responses=answers(*SEALING, s200=_DONE),
    )
    async def chat_sealed(
        body: SealedChatRequest,
        idempotency_key: Key = None,
        if_match: Annotated[str | None, Header(pattern=IF_MATCH, description=IF_MATCH_SAYS)] = None,
    ) -> SealedChatReply:
        """Run one turn of a conversation that the client keeps: nothing of it stays here, and any host may answer.

        Send the `state` of the last answer with the next message. It is encrypted, and refused if it was changed, has
        expired, or doesn't belong here. An older one of the same conversation is taken, too, unless the deployment has
        its replay guard on (`sealed.guard`). A stream has the state in `done`.
        """
        raise AssertionError("actors.api answers /chat/sealed before FastAPI is asked")
