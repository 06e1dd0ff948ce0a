"""Password hashing in native threads.

The functions of hashlib, argon2-cffi and bcrypt release the GIL while they compute.
"""

import hashlib
import importlib.util
import os
from functools import partial
from typing import Any

from gevent.threadpool import ThreadPool

from .native_calls import in_native_thread

#: Iterations below which PBKDF2 takes less time than the way to a thread (0.1 ms).
_FEW_ITERATIONS = 500


def patch_hashing() -> None:
    """Have greenlets hash in a pool of native threads, which leaves a core to the hub.

    It is not gevent's own pool: a burst of logins would keep files and host names waiting.
    """
    pool = ThreadPool(max(1, (os.process_cpu_count() or 1) - 1))
    in_thread = partial(in_native_thread, pool=pool)
    hashlib.pbkdf2_hmac = in_thread(hashlib.pbkdf2_hmac, unless=_is_short)
    hashlib.scrypt = in_thread(hashlib.scrypt)
    if importlib.util.find_spec("argon2") is not None:
        from argon2 import _password_hasher, low_level

        for name in ("hash_secret", "hash_secret_raw", "verify_secret"):
            patched = vars(low_level)[name] = in_thread(vars(low_level)[name])
            if name in vars(_password_hasher):
                vars(_password_hasher)[name] = patched
    if importlib.util.find_spec("bcrypt") is not None:
        import bcrypt

        for name in ("hashpw", "checkpw", "kdf"):
            vars(bcrypt)[name] = in_thread(vars(bcrypt)[name])


def _is_short(_name: str, _salt: bytes = b"", *args: Any, **kwargs: Any) -> bool:
    """Whether these arguments of `pbkdf2_hmac()` ask for little work."""
    iterations = kwargs.get("iterations", args[1] if len(args) > 1 else 0)
    return isinstance(iterations, int) and iterations < _FEW_ITERATIONS
