"""Attention on data: score, weigh, multiply. Knows torch and Polars."""
