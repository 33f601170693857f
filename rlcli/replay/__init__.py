"""Sampling from datasets: which rows make a batch."""
