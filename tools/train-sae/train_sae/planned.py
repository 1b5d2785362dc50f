"""How many tokens, where none are asked for, and what is said of them before the first step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from saetools.log import logger

if TYPE_CHECKING:
    from saetools.shards.token_source import ShardSource

EPOCHS, LEAST_TOKENS, MOST_TOKENS = 20, 10**6, 10**8
DEFAULT_TOKENS = "20 epochs, at least 1M and at most 100M"
MOST_DEAD_AFTER, MOST_LOG_EVERY, LEAST_ROWS = 10**7, 50, 25
DEFAULT_DEAD_AFTER = "a tenth of --tokens, at most 10M"
LOG_EVERY_HELP = "Steps between rows of the metrics table. [default: 50, or less: 25 rows of a short run]"
FORETOLD = "after Ctrl-C, the same command goes on where it stopped"


def default_tokens(epoch: int) -> int:
    """The default of --tokens, for epochs of so many tokens: `DEFAULT_TOKENS` in words."""
    return min(max(EPOCHS * epoch, LEAST_TOKENS), MOST_TOKENS)


def dead_after(given: str | int | None, tokens: int) -> str | int:
    """--dead-after, or its default: in a run that is shorter than it, no latent would ever count as dead."""
    return min(max(tokens // 10, 1), MOST_DEAD_AFTER) if given is None else given


def default_log_every(n_steps: int) -> int:
    """The default of --log-every: a short run has a row for nearly every step, the first ones too."""
    return min(max(n_steps // LEAST_ROWS, 1), MOST_LOG_EVERY)


def say_plan(n_steps: int, batch_size: int, is_default: bool, source: ShardSource) -> None:
    """Log '1,957,888 tokens in 478 steps: 20 epochs of 98,000 tokens'."""
    tokens, epoch = n_steps * batch_size, source.tokens(source.holdout)
    most = "at most " if source.excluded else ""
    said = f"{tokens:,} tokens in {n_steps:,} steps: {tokens / epoch:.3g} epochs of {most}{epoch:,} tokens"
    if is_default:
        said += f" (the default: {DEFAULT_TOKENS}; --tokens sets another number)"
    logger.info("%s", said)
