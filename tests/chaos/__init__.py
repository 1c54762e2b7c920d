"""Faults against the real stack in a seeded, replayable sequence, with an exact verdict: `make chaos`."""
