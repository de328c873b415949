"""Evaluation on real data: where data comes from, tokenization, the tasks with their metrics, the loop over models."""
