"""Figures from our CSV tables, one kind each."""
