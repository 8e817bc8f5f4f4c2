"""Ways to run Rehydra: the composition root (``app``), one host alone (``host``), and a whole stack here (``up``)."""
