"""Compiled loops over the events of latents."""
