"""Clocks that a test moves: what they say does not depend on what else the machine does."""


class Clock:
    """Moves where a test moves it, and by a tick at each look."""

    def __init__(self, tick=0.0):
        self.now, self.tick = 100.0, tick

    def __call__(self):
        self.now += self.tick
        return self.now
