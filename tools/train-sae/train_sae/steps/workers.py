"""Threads that share out the pieces of a kernel's work: those of every tool."""

from saetools.workers import Workers, even_pieces, pieces_of_equal_work

__all__ = ["Workers", "even_pieces", "pieces_of_equal_work"]
