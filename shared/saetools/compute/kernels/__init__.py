"""Compiled CPU loops (numba). Each is called through a Python function that checks its arguments."""
