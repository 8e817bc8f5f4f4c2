"""``python -m loadtest.bench``: one deployment, one setting. The whole suite: ``python -m loadtest.bench.suite``."""

import sys

from loadtest.bench.one import main

sys.exit(main())
