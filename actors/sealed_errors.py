"""Why a sealed state isn't taken: the part of the error tree that belongs to ``POST /chat/sealed``.

A conversation whose state is refused is never begun anew behind its client's back: each reason has a code of its own.
``outcome`` is that of the tree; with the replay guard on, ``actors.sealed_turn`` weakens it.
"""

from __future__ import annotations

from actors.errors import BadRequest, Outcome, RehydraError


class SealedOff(BadRequest):
    """Neither ``sealed.keys`` nor ``sealed.keys_file`` is set."""

    code = "sealed-off"
    title = "Sealed conversations aren't set up here"
    status = 404


class StateInvalid(BadRequest):
    """Not a state, or not as it was sealed: a byte was changed, lost or added."""

    code = "state-invalid"
    title = "The state isn't as it was sealed"


class StateKeyUnknown(BadRequest):
    """Sealed under a key that isn't among those set here: taken out of use, another deployment's, or too new."""

    code = "state-key-unknown"
    title = "The state was sealed under a key that isn't known here"


class StateForeign(BadRequest):
    code = "state-foreign"
    title = "The state belongs to another agent or tenant"
    status = 409


class StateOutdated(BadRequest):
    """Sealed under a ``schema_version`` below ``sealed.schema_version_min``."""

    code = "state-outdated"
    title = "The state's schema_version isn't taken any more"
    status = 409


class StateNewer(BadRequest):
    """Sealed under a ``schema_version`` above this host's, by one that was updated already. A repeat may reach that."""

    code = "state-newer"
    title = "The state's schema_version isn't known here yet"
    status = 409
    retryable = True


class StateExpired(BadRequest):
    """Sealed longer than ``sealed.ttl_s`` ago."""

    code = "state-expired"
    title = "The state has expired"
    status = 410


class StateTooLarge(BadRequest):
    """The state that came, or the one that the turn would make. ``extra`` says what was measured, and its limit."""

    code = "state-too-large"
    title = "The state is larger than allowed"
    status = 413


class StateSuperseded(BadRequest):
    """The replay guard knows a newer state of this conversation. ``extra["turn_seq"]`` is that one's."""

    code = "state-superseded"
    title = "There is a newer state of this conversation"
    status = 409


class HostFull(RehydraError):
    """The host runs as many sealed turns as it may (``sealed.running_max``)."""

    code = "host-full"
    title = "This host runs as many turns as it may"
    status = 503
    retryable = True
    outcome = Outcome.NOT_DONE
