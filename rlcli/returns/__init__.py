"""Return and advantage estimators, one per file."""
