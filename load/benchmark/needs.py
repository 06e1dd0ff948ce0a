"""Prints the distributions that `bench.py` needs for the same arguments, one a line."""

import argparse

import bench
from kinds import KINDS


def needed(args: argparse.Namespace) -> list[str]:
    names = ["matplotlib"] if args.plots else []
    if not args.report:
        names += [name for server in args.servers for name in KINDS[server].needs]
        names += ["plain.postgres"] if "db" in args.workloads else []
    return list(dict.fromkeys(names))


if __name__ == "__main__":
    print(*needed(bench.parse_arguments()), sep="\n")
