"""One module for each group of invariants, each check a function of the facts alone. ``checker.py`` lists them."""
