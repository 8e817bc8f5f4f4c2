"""One error tree. Each class knows its HTTP status, whether a repeat can help, and what is known of the turn.

``outcome`` is ``not_done`` only if no other attempt under that turn id can exist, else ``unknown`` (I10): the
class gives the usual answer, an instance may weaken it. Instances survive pickling across Ray's processes.
Rendered as RFC 9457 problem details by ``api``.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, ClassVar


class Outcome(StrEnum):
    """What a failed answer says about the turn."""

    NOT_DONE = "not_done"
    UNKNOWN = "unknown"


class RehydraError(Exception):
    """Root of the tree. ``detail`` is one sentence for a person; ``extra`` joins the problem document."""

    code: ClassVar[str] = "internal"
    title: ClassVar[str] = "Something went wrong inside Rehydra"
    status: ClassVar[int] = 500
    retryable: ClassVar[bool] = False
    outcome: Outcome = Outcome.UNKNOWN

    def __init__(
        self,
        detail: str = "",
        *,
        outcome: Outcome | None = None,
        retry_after_s: float | None = None,
        **extra: Any,
    ) -> None:
        super().__init__(detail)
        self.detail = detail or self.title
        self.retry_after_s = retry_after_s
        self.extra = extra
        if outcome is not None:
            self.outcome = outcome

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (type(self), self.detail, self.outcome, self.retry_after_s, self.extra))

    def problem(self) -> dict[str, Any]:
        """The RFC 9457 document: type, title, status, detail, outcome, and the extra members."""
        document: dict[str, Any] = {
            "type": f"urn:rehydra:problem:{self.code}",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            "outcome": self.outcome.value,
        }
        document.update(self.extra)
        return document


def _rebuild(
    cls: type[RehydraError], detail: str, outcome: Outcome, retry_after_s: float | None, extra: dict[str, Any]
) -> RehydraError:
    return cls(detail, outcome=outcome, retry_after_s=retry_after_s, **extra)


# --- the request can't be taken ----------------------------------------------------------------------------------


class BadRequest(RehydraError):
    """The request itself is wrong; nothing was changed and a repeat won't help."""

    code = "bad-request"
    title = "The request can't be understood"
    status = 400
    outcome = Outcome.NOT_DONE


class TooLarge(BadRequest):
    code = "too-large"
    title = "The request is larger than allowed"
    status = 413


class MethodNotAllowed(BadRequest):
    code = "method-not-allowed"
    title = "This path doesn't take that method"
    status = 405


class PathUnknown(BadRequest):
    code = "path-unknown"
    title = "There is nothing at this path"
    status = 404


class BodyTooSlow(BadRequest):
    """The body wasn't there within ``http.body_s``. Nothing was begun; a repeat may do better."""

    code = "body-too-slow"
    title = "The request's body took too long"
    status = 408
    retryable = True


class HeadTooLarge(BadRequest):
    """Over ``http.head_bytes_max`` or ``http.headers_max``."""

    code = "head-too-large"
    title = "The request's headers are larger than allowed"
    status = 431


class TargetTooLong(BadRequest):
    """The path and its query alone are over ``http.head_bytes_max``."""

    code = "target-too-long"
    title = "The request's path is longer than allowed"
    status = 414


class EncodingUnsupported(BadRequest):
    code = "encoding-unsupported"
    title = "Compressed bodies aren't accepted"
    status = 415


class Misdirected(BadRequest):
    """Meant for another incarnation than the one that listens here: that one is dead."""

    code = "misdirected"
    title = "This request was meant for another host"
    status = 421


class Outdated(BadRequest):
    """A batch for an epoch that isn't the session's here: its sender keeps the turns."""

    code = "outdated"
    title = "This batch is for another epoch"
    status = 409


class SessionUnknown(BadRequest):
    code = "session-unknown"
    title = "There is no such session"
    status = 404


class SessionDeleted(BadRequest):
    code = "session-deleted"
    title = "The session was deleted"
    status = 410


class KeyMismatch(BadRequest):
    """The Idempotency-Key was used for another message in this session. The earlier turn stands."""

    code = "key-mismatch"
    title = "This Idempotency-Key belongs to another message"
    status = 422


class PreconditionFailed(BadRequest):
    """``If-Match`` names another turn_seq than the session's. ``extra["turn_seq"]`` is the current one."""

    code = "precondition-failed"
    title = "The session isn't where If-Match says"
    status = 412


class SessionFull(BadRequest):
    """Its log has reached ``session.log_bytes_max``. What it has can be read; go on in a new session."""

    code = "session-full"
    title = "This session is as long as it may be"
    status = 409


# --- the turn ran and came to nothing ----------------------------------------------------------------------------


class AgentFailed(RehydraError):
    code = "agent-failed"
    title = "The agent failed; nothing was committed"
    status = 500
    outcome = Outcome.NOT_DONE


class AgentTimedOut(RehydraError):
    code = "agent-timed-out"
    title = "The agent passed its deadline; nothing was committed"
    status = 504
    retryable = True
    outcome = Outcome.NOT_DONE


class PoisonTurn(RehydraError):
    """Every host that ran this turn died. It is answered, not run again; the session lives on."""

    code = "poison-turn"
    title = "This message stopped every host that ran it"
    status = 500
    outcome = Outcome.NOT_DONE


class StateRegressed(RehydraError):
    """The store lost turns that it had confirmed. Told once; the session goes on from the store's log."""

    code = "state-regressed"
    title = "The store lost the end of this session"
    status = 409
    outcome = Outcome.NOT_DONE

    @classmethod
    def of(cls, mine: int, stored: int) -> StateRegressed:
        """``mine`` turns were confirmed to clients, ``stored`` are left."""
        # Unknown: what the store has kept, or has taken from another host since, may contain the very turn that asks.
        detail = f"Turn {mine} was confirmed; the store has {stored} turns."
        return cls(detail, outcome=Outcome.UNKNOWN, turn_seq=stored, turn_seq_lost=mine)


# --- come back later ---------------------------------------------------------------------------------------------


class MailboxFull(RehydraError):
    code = "mailbox-full"
    title = "Too many messages of this session are waiting"
    status = 429
    retryable = True
    outcome = Outcome.NOT_DONE


class StoreUnavailable(RehydraError):
    """The store didn't answer, or not in time: whether the call was applied is unknown."""

    code = "store-unavailable"
    title = "The checkpoint store can't be reached"
    status = 503
    retryable = True


class StoreFull(StoreUnavailable):
    """The store refused to write for want of memory or disk; nothing was written."""

    code = "store-full"
    title = "The checkpoint store has no room"
    outcome = Outcome.NOT_DONE


class Unreachable(RehydraError):
    """The session is held by a host that neither answers nor is known to be dead yet; or hops ran out."""

    code = "holder-unreachable"
    title = "The session is on its way from one host to another"
    status = 503
    retryable = True


class WaitedTooLong(RehydraError):
    """The request's own wait ended before its turn did. The turn goes on; the same key gets its reply."""

    code = "waited-too-long"
    title = "The turn isn't finished yet"
    status = 503
    retryable = True


class TooBusy(RehydraError):
    """The host has as many connections as it takes."""

    code = "too-busy"
    title = "This host has too many connections"
    status = 503
    retryable = True


class NotReady(RehydraError):
    """What ``GET /readyz`` answers while something is missing; ``extra["reasons"]`` says what."""

    code = "not-ready"
    title = "This host isn't ready for turns"
    status = 503
    retryable = True
    outcome = Outcome.NOT_DONE


# --- the deployment is wrong -------------------------------------------------------------------------------------


class Misconfigured(RehydraError):
    """A host must not start like this. Printed as one line; exit code 2."""

    code = "misconfigured"
    title = "Rehydra can't start like this"
