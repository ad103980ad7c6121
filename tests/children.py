"""Processes that tests start: forked from one that has everything imported, so there at once.

Python keeps one such server per process, which imports what it is told before its first child. So
all tests take it from here: whichever comes first would leave the others' imports out.
"""

import multiprocessing

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.preloaded"])
