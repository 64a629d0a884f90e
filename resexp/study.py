"""The reader of study files under its first name, which scripts import: `resexp.load_study` is the same."""

from resexp.config.study import load

__all__ = ["load"]
