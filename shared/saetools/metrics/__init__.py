"""Average precision and its intervals, image scores, F1 at a threshold, Pareto fronts. Formulas: docs/metrics.md."""
