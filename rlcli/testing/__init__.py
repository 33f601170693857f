"""Contract tests that plugins can run, and environments of known content to test with."""
