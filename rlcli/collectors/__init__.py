"""Execution: policies act in environments, and every row that comes out is a true transition."""
