"""One file per subcommand: flags in, one pipeline call, result out. No heavy import at module level."""
