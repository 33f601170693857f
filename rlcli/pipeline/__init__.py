"""What each subcommand does, as typed Python calls with the same options."""
