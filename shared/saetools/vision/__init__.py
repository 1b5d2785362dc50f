"""Vision models, their preprocessing, and the image sets that they are shown."""
