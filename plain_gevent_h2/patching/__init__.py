"""What a worker process patches beyond gevent's own `patch_all()`.

`patches.py` decides what is patched and when. Each module here patches one part:

    standard_streams   standard input, output and error that are closed
    warnings_lock      the lock of `warnings` around a fork
    threads            `threading`, `_thread` and `queue`, with the lock of `locks`
    pipes              `os.read()`, `os.write()`, the file objects of pipes, and file locks
    subprocesses       `subprocess`, and the calls of `os` that wait for a child
    multiprocess       `multiprocessing`
    forks              the state of a forked child
    signals            calls that wait for a signal
    sockets            sockets that several native threads share
    imports            the locks of the import system
    hashing            password hashing, in native threads
    asyncio_loops      event loops that blocking code runs
    psycopg_cleanup    what psycopg cleans up after

They use four modules, of which each imports only those above it:

    native             the functions of native threads that gevent replaces; `can_switch()`
    locks              a lock and a queue for greenlets and native threads
    waiting            waits for a descriptor, and polls where there is none
    native_calls       calls a function in a native thread while its greenlet waits

Four parts import another one: `subprocesses` the file objects of `pipes`, `multiprocess` the wait
for a child of `subprocesses`, `forks` and `asyncio_loops` what `threads` knows of its threads.

A call waits in one of three ways. Where other greenlets of its thread can run (`can_switch()`), it
waits in the thread's hub for a descriptor, and polls if there is none. Everywhere else it blocks,
as in any Python program: that stops its own thread alone.

The room imports nothing of the rest of the package and nothing of Plain. `patch()` imports
`standard_streams`, `warnings_lock`, `threads`, `locks` and `native` before gevent patches, and
the others up to `sockets` right after. So these must import nothing that keeps a copy of
what gevent replaces.
"""
