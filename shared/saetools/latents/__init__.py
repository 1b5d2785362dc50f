"""Sparse latents of many tokens: files in row order, blocks in column order."""
