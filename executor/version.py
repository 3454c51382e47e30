"""The version of this package, said once: pyproject.toml, metrics and traces read it from here."""

__version__ = "0.1.0"
