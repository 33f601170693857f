"""Where the process begins: all else is imported inside, so that Ctrl-C while importing is one line too."""

import sys


def main() -> None:
    """Run `rl` with the process's arguments and exit with a documented code."""
    try:
        from rlcli.main import main as run

        run()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
