"""The names of a spool's files."""

SEGMENT_SUFFIX = ".seg"
"""A segment: ``<nanoseconds since 1970>-<process id>-<8 hex digits>.seg``."""

NEW_SUFFIX = ".new"
"""A segment that is being created."""
