"""A fuzzer over every reader of what others may have written: mutated files, each with a time limit.

A reader may return, or raise UserError (lines that a person can read) or OSError; anything else is a failure, and so is
a hang. The normal test run gives it RESEXP_FUZZ_CASES=2000 cases; the long mode is::

    RESEXP_FUZZ_CASES=100000 python -m tests.fuzz

which prints how many cases each reader was given. A case is made from its reader's name and its number alone, so
``python -m tests.fuzz READER NUMBER`` repeats one.
"""
