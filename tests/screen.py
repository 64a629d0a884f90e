"""A terminal that is read instead of looked at: what a person would see, and could scroll back to."""

from __future__ import annotations

import re

_PART = re.compile(r"\x1b\[([?0-9;]*)([A-Za-z])|\x1b.|([\r\n\b])|([^\x1b\r\n\b]+)", re.DOTALL)


class Screen:
    """The lines of a terminal with `columns` and `rows`; lines that leave it at the top are kept."""

    def __init__(self, columns: int, rows: int) -> None:
        self.columns, self.rows = columns, rows
        self.lines = [""]
        self.wrapped = set[int]()
        """The lines that continue the one above."""
        self.row = self.column = 0

    def feed(self, text: str) -> Screen:
        """Show what a program writes."""
        for match in _PART.finditer(text):
            numbers, letter, control, words = match.groups()
            if letter:
                self._control(numbers, letter)
            elif control == "\r":
                self.column = 0
            elif control == "\n":
                self._down()
            elif control == "\b":
                self.column = max(0, self.column - 1)
            elif words:
                self._write(words)
        return self

    @property
    def text(self) -> list[str]:
        """All lines as they were written, whatever the width."""
        found: list[str] = []
        for number, line in enumerate(self.lines):
            if number in self.wrapped:
                found[-1] = found[-1].ljust(self.columns) + line
            else:
                found.append(line)
        return [line.rstrip() for line in found]

    def _down(self) -> None:
        self.row += 1
        if self.row == len(self.lines):
            self.lines.append("")

    def _write(self, words: str) -> None:
        for character in words:
            if self.column == self.columns:
                self._down()
                self.wrapped.add(self.row)
                self.column = 0
            line = self.lines[self.row].ljust(self.column)
            self.lines[self.row] = line[: self.column] + character + line[self.column + 1 :]
            self.column += 1

    def _control(self, numbers: str, letter: str) -> None:
        count = int(numbers) if numbers.isdecimal() else 1
        if letter == "A":  # no further than to the line at the top
            self.row = max(self.row - count, len(self.lines) - self.rows, 0)
        elif letter == "K":
            self.lines[self.row] = "" if numbers == "2" else self.lines[self.row][: self.column]
            self.wrapped.discard(self.row)
        elif letter not in "mhl":
            raise ValueError(f"unknown control sequence {numbers}{letter}")
