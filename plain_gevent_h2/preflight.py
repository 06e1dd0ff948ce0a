"""What `plain check` says about the settings of this package, and about the app under it."""

from plain.exceptions import ImproperlyConfigured
from plain.preflight import PreflightCheck, PreflightResult, register_check
from plain.runtime import settings

from .config import WORKERS, Config, unknown_worker
from .process import compatibility as cooperation


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


@register_check(name="gevent_h2.cooperation")
class CheckGeventH2Cooperation(PreflightCheck):
    """What would block a gevent-h2 worker. Nothing is said if another worker was chosen.

    A worker chosen on the command line says the same in its log, as it starts.
    """

    def run(self) -> list[PreflightResult]:
        if settings.SERVER_WORKER != "gevent-h2":
            return []
        return [
            PreflightResult(fix=found.cure, id=f"gevent_h2.{found.id}", warning=True)
            for found in cooperation.obstacles(settings, in_worker=False)
        ]
