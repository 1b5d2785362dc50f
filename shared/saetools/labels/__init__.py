"""Which image or patch has which label."""
