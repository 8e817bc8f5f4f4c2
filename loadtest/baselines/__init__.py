"""What Rehydra is held against: the same chat service as one would write it without Rehydra."""
