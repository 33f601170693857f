"""`python -m rlcli` is `rl`."""

from rlcli.main import main

main()
