"""The category of all warnings."""


class FastlogWarning(UserWarning):
    """Something was not logged, or not as asked; training goes on."""
