"""Asking a stack from outside, as a client would. Blocking, a few seconds at most; standard library only."""

from __future__ import annotations

import http.client
import json
import secrets
from typing import Any

_ANSWER_S = 5.0
_TURN_S = 30.0


def ring_size(host: str, port: int) -> int:
    """How many hosts the ring has, as told through the edge; 0 while nobody answers."""
    status, answer = _ask(host, port, "GET", "/ring", None, _ANSWER_S)
    slots = answer.get("slots") if status == 200 else None
    return len(slots) if isinstance(slots, dict) else 0


def first_turn(host: str, port: int) -> str | None:
    """None until a message is answered by the agent; then "", or what the agent failed of: the stack works all the
    same, and asking again would only run the agent again. Its session is deleted again."""
    session_id = f"deploy-up-{secrets.token_hex(4)}"
    body = {"session_id": session_id, "message": "Hello"}
    status, answer = _ask(host, port, "POST", "/chat", body, _TURN_S)
    failed = str(answer.get("type", "")).endswith((":agent-failed", ":agent-timed-out"))
    if status != 200 and not failed:
        return None
    _ask(host, port, "DELETE", f"/sessions/{session_id}", None, _ANSWER_S)
    return str(answer.get("detail", "no detail")) if failed else ""


def _ask(
    host: str, port: int, method: str, path: str, body: dict[str, Any] | None, wait_s: float
) -> tuple[int, dict[str, Any]]:
    connection = http.client.HTTPConnection(_reachable(host), port, timeout=wait_s)
    try:
        headers = {"content-type": "application/json"} if body is not None else {}
        connection.request(method, path, json.dumps(body) if body is not None else None, headers)
        response = connection.getresponse()
        answer = json.loads(response.read() or b"{}")
    except (OSError, http.client.HTTPException, ValueError):
        return 0, {}
    finally:
        connection.close()
    return response.status, answer if isinstance(answer, dict) else {}


def _reachable(host: str) -> str:
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
