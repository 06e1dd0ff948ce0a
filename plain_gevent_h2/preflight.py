"""The checks that `plain check` runs: of this package's settings, and of the app."""

from plain.exceptions import ImproperlyConfigured
from plain.preflight import PreflightCheck, PreflightResult, register_check
from plain.runtime import settings

from .config import WORKERS, Config, unknown_worker
from .process.compatibility import incompatibilities


@register_check(name="gevent_h2.settings")
class CheckGeventH2Settings(PreflightCheck):
    """The settings that `plain server --worker gevent-h2` would refuse to start with."""

    def run(self) -> list[PreflightResult]:
        if settings.SERVER_WORKER not in WORKERS:
            fix = unknown_worker(settings.SERVER_WORKER)
            return [PreflightResult(fix=fix, id="gevent_h2.worker_unknown")]
        try:
            Config.load(settings)
        except ImproperlyConfigured as exc:
            return [PreflightResult(fix=str(exc), id="gevent_h2.setting_invalid")]
        return []


@register_check(name="gevent_h2.compatibility")
class CheckGeventH2Compatibility(PreflightCheck):
    """What in the app would block a gevent-h2 worker. Only where `SERVER_WORKER` chooses it.

    A worker that the command line chooses writes the same into its log as it starts.
    """

    def run(self) -> list[PreflightResult]:
        if settings.SERVER_WORKER != "gevent-h2":
            return []
        return [
            PreflightResult(fix=found.fix, id=f"gevent_h2.{found.id}", warning=True)
            for found in incompatibilities(settings, in_worker=False)
        ]
