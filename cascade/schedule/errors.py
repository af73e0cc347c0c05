"""The one way in which scheduling gives up."""

from __future__ import annotations


class NoSchedule(Exception):
    """Something has no place in a kernel; the text says what, in the names of the spec."""
