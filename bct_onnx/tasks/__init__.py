"""Evaluation on real data: readers, tokenization, three tasks with their metrics, and the loop over models."""
