"""The page of a rewrite."""
