"""The category of all warnings, and the threads that leave them to others."""

import threading


class FastlogWarning(UserWarning):
    """Something was not logged, or not as asked; training goes on."""


class BackgroundThread(threading.Thread):
    """A thread on which nothing is warned or raised: that waits for one of the program's own."""
