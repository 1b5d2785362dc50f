"""Figures drawn with matplotlib: of our CSV tables, and the heat map."""
