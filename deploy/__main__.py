"""``python -m deploy``, which is ``deploy/up``: its modules take a moment to load, in which Ctrl-C just ends it."""

from __future__ import annotations

import signal
import sys

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from deploy.up import main  # A person who stops it meanwhile wants no traceback.

    sys.exit(main())
