"""The command `page`: a static folder that opens from disk."""
