"""Rehydra beside the other ways to scale a stateful agent: the same agent, requests, clients and checker for each.

    loadtest/run compare [--only WAY ...] [--rounds 5] [--smoke] [--minutes 60] [--out DIR]

In every round each way is started from nothing, in turn (``ways``; ``start``), goes through the same four experiments
(``experiments``), and is ended. So whatever the machine does meanwhile happens to all of them.

- ``ordinary``      talks at a fixed rate, then as fast as some users can;
- ``at_once``       two messages of one session at the same time, again and again;
- ``lengths``       talks of 1, 10, 50, 200 and 1,000 turns;
- ``server_gone``   one of two servers is killed in the middle and stays away. Comes last: nobody has to mend anything.

Clients (``visitor``) send what a browser would: the session's id, a key for each message, the cookie and the state that
they were given, and an address of their own for balancers that go by it. They never repeat anything, so what went
wrong is counted once, where it happened. Afterwards every session is read back and ``loadtest.checker`` judges.

Measured beside that (``measures``): calls of the agent, by a byte that each call appends to a file; bytes that the
stores received, by the kernel's count for each of their connections; processor time and memory (proportional set
size) of all that the way consists of, stores and balancers included, clients excluded.

One line of JSON for each way and round; what has a line of this commit and these sizes isn't done again. The table
(``table``) has medians over the rounds with their extremes, ``page`` shows the same with plots. Exit code 1 if Rehydra
itself lost anything or showed a client an error in ``at_once`` or ``server_gone``: of a rival any outcome is a result.

What it deliberately doesn't do: compare machines or networks (all is on this one, and the clients take their share of
its cores), measure a model (the agent waits as long as the request says), or repeat what failed.
"""
