"""post_worker_init and worker_exit."""

import atexit
import multiprocessing

from plain.packages import PackageConfig, register_config

from .notes import note


@register_config
class Config(PackageConfig):
    def ready(self):
        if multiprocessing.parent_process():  # a worker, not the arbiter or another command
            note("worker ready")
            atexit.register(note, "worker exit")
