"""Turns a sweep into commands, a Makefile or Slurm arrays."""
