"""The one root error. A message is for a human: what, where, what was expected."""

from __future__ import annotations


class BarographError(Exception):
    """Something the user can mend. The command line prints it as one line and exits with 2."""


class ModelError(BarographError):
    """A model cannot be found, loaded or tapped."""


class ConfigError(BarographError):
    """A configuration file, flag or environment variable is wrong."""


class WireError(BarographError):
    """A message between tap and sidecar is malformed, too large or of another version."""
