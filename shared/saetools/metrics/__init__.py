"""Average precision, its intervals, and fronts. Formulas: docs/metrics.md."""
