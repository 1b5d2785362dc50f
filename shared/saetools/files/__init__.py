"""Files with their provenance: complete or absent, and checked when they are read."""
