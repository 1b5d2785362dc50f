"""Activation shards: what they hold, and how they are written, read and drawn from."""
