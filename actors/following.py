"""One request that waits for a ticket: it is told what the turn says, as it comes, and how it ends.

Every look at the ticket is followed by the wait without an await in between; after a wait, look at everything again.
"""

from __future__ import annotations

from actors.errors import Outcome, RehydraError
from actors.ports import Done, Requester
from actors.ticket import Elsewhere, Ticket


async def follow(ticket: Ticket, requester: Requester) -> Done | RehydraError | Elsewhere:
    """Wait for the ticket's end; hand what it says through as it comes. No await between a look and the wait."""
    ticket.attach()
    try:
        return await _stream(ticket, requester) if requester.stream else await ticket.ended()
    finally:
        ticket.detach()


async def _stream(ticket: Ticket, requester: Requester) -> Done | RehydraError | Elsewhere:
    generation, announced, shown = ticket.generation, False, 0
    # What a turn that came to nothing had left to say is left unsaid: it is void anyway.
    while not isinstance(ticket.end, Elsewhere | RehydraError):
        if ticket.generation != generation:
            generation, announced, shown = ticket.generation, False, 0
        news = (not announced and ticket.epoch > 0) or shown < len(ticket.pieces)
        if news and not (ticket.activation.entitled or isinstance(ticket.end, Done)):
            # A host that was frozen says nothing until it knows that it still holds the lease (I8). The answer
            # may be old by the time it is here: look again.
            if not await ticket.activation.may_speak() and ticket.end is None:
                await ticket.changed()
        elif news and not announced:
            announced = True
            await requester.turn(ticket.request.turn_id, ticket.epoch, ticket.activation.residence)
        elif news and ticket.end is None and (quiet_s := requester.quiet_s()) > 0:
            await ticket.pause(quiet_s)
        elif news:
            text = "".join(ticket.pieces[shown:])
            shown = len(ticket.pieces)
            await requester.delta(text)
        elif ticket.end is None:
            await ticket.changed()
        else:
            if not announced:
                await tell_whole(requester, ticket.end)
            break
    return ticket.end


async def tell_whole(requester: Requester, done: Done) -> None:
    """A recorded turn, told as a stream of one piece: it voids whatever an attempt that came to nothing has said."""
    if requester.stream:
        await requester.turn(done.turn.turn_id, done.turn.epoch, done.residence)
        await requester.delta(done.turn.reply)


def weakened(end: Done | RehydraError, doubtful: bool) -> Done | RehydraError:
    """The answer itself; a problem says "unknown" if another host may have the same turn (I10)."""
    if doubtful and isinstance(end, RehydraError):
        end.outcome = Outcome.UNKNOWN
    return end
