"""Failures of work whose input was right; commands end with status 1 and the message."""


class WorkFailed(Exception):
    """Work that failed though its input was right: exit status 1."""


class NotFinite(WorkFailed):
    """Computed numbers that are infinite or no numbers."""
