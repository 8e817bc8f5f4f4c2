"""The benchmark: what a turn costs, on which axis, against what; one command, one file of figures, one page.

    python -m loadtest.bench.suite --quick          # 3 minutes
    python -m loadtest.bench.suite                  # 40 minutes at most; goes on where it was ended
    python -m loadtest.bench.suite --only history --rounds 3
    python -m loadtest.bench.scale                  # 1,000 hosts and 1,000,000 sessions, by simulation

``python -m loadtest.bench`` alone asks one deployment at one setting, and stands apart from the suite.

**A measurement** (``plan``) is a name, an axis, a system under test (``systems``), a kind (what is done: ``turns``,
``calls``, ``rehydrate``, ``claim``, ``takeover``, ``residents``) and a point. One axis at a time leaves the base
point: 64 connections, 50 turns of history, 200 sessions, JSON, messages of 200 B, replies of 1 kB.

**Rounds are interleaved**: round 1 of all, then round 2 of all, so that an hour in which the machine is slow is
everybody's. Only one system runs at a time, started anew in each round, with an empty store: idle clusters beside it
would take a tenth of the machine each. A figure is the median of its rounds, and is shown with the least and the most.

**Histories are copied, not talked.** One talk is led over HTTP to the wanted length; the others are copies that the
store makes of its keys (``seeds``), each without a holder. A warm-up turn in each makes it resident.

**The generator** is a process pinned to one CPU (``load``, ``traffic``); an answer that isn't to the byte what it
should be is an error, and a measurement with an error has no figure. Its own CPU is in every result.

**Counted is from outside** (``counters``): CPU of each process from ``/proc``, commands and bytes from the store's
``INFO``, system calls by ``strace -c`` in a measurement of its own, because it slows what it counts.

**Results** (``results``) are one line of JSON each, appended as they come, under the commit and the plan that they
belong to; a run that was broken off does what is missing. ``summary`` makes medians of them, ``targets`` judges,
``page`` draws. What can't be measured here (a program that isn't installed, a patch whose place is gone) is named with
its reason, never left out silently.
"""
