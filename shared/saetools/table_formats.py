"""The formats of our CSV tables: what writes each, and the versions that readers know."""

from saetools.provenance import Format

AP_TABLE = Format("saetools-ap-table", 2, "score-traits")
TRAINING_METRICS = Format("saetools-training-metrics", 1, "train-sae")
PROBE_TABLE = Format("saetools-probe-table", 1, "fit-probes")
LATENT_TABLE = Format("saetools-latent-table", 1, "fit-probes")
PROBE_SUMMARY = Format("saetools-probe-summary", 2, "fit-probes")
LATENT_RANKING = Format("saetools-latent-ranking", 1, "audit-latents")
YIELD = Format("saetools-yield", 2, "audit-latents")
LATENT_PICTURES = Format("saetools-latent-pictures", 1, "render-visuals latents")
COLLECTED_RUNS = Format("saetools-collected-runs", 1, "collect-runs")

TABLES = (
    AP_TABLE,
    TRAINING_METRICS,
    PROBE_TABLE,
    LATENT_TABLE,
    PROBE_SUMMARY,
    LATENT_RANKING,
    YIELD,
    LATENT_PICTURES,
    COLLECTED_RUNS,
)
