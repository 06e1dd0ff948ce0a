"""Runs a target of `fuzz_parsers.py` under atheris: bytes that reach new code lead to others.

`scripts/fuzz --parsers` starts it, with the name of the target and libFuzzer's own options.
"""

import sys

import atheris

with atheris.instrument_imports(include=["fuzz_parsers", "plain_gevent_h2", "hpack"]):
    from fuzz_parsers import TARGETS

if __name__ == "__main__":
    target = TARGETS[sys.argv.pop(1)]
    atheris.Setup(sys.argv, target)
    atheris.Fuzz()
