"""The pass collection: one rewrite per file, in running order."""
