"""What Rehydra is held against: the same chat service as one would write it without Rehydra.

- ``ways``: the ways of the usual guides, each a class with two methods, as small as those guides have it: where a talk
  is kept, and who may write it. ``serve`` makes a server of one (FastAPI on uvicorn); ``chat`` is what they share.
- ``app`` and ``rival``: the same on Ray Serve, behind Ray's own router.
- ``unfenced``: Rehydra itself without its fence, for the positive controls.

None is crippled. Every way has the same agent, answers a repeated ``Idempotency-Key`` from the talk, and is set up
better than by its defaults where those would cost it: kept connections and a repeat on the next server in nginx, pools
that are warm, the fast event loop and parsers. What each lacks is what the guide leaves out.
"""
