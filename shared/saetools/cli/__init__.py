"""The command-line kit: what every tool's program is made of."""
