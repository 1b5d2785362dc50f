"""Which image or patch has which label.

`cub200` and `tables` read files of traits, `splits` reads the labels of a training and a test set, and `rows` and
`dense` hold them.
"""

IGNORED_LABEL = 65535
"""The patch label of patches without a label: every reader leaves these patches out."""
