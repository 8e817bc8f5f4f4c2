"""``python -m loadtest.baselines``: a program of its own, so that Ray finds the deployment in a module by its name."""

import sys

from loadtest.baselines.app import main

sys.exit(main())
