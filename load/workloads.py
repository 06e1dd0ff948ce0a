"""All that the benchmark asks of a server, in the order of the table."""

import driven
import held
from workload import Workload

WORKLOADS: dict[str, Workload] = {
    workload.name: workload
    for workload in (
        driven.Small(),
        driven.Json(),
        driven.Sleep10(),
        driven.Sleep100(),
        driven.Sleep1000(),
        driven.Sleep10000(),
        driven.Database(),
        driven.Download(),
        driven.Huge(),
        driven.File(),
        driven.Upload(),
        driven.Connect(),
        held.Beside(),
        held.Events1000(),
        held.Events10000(),
        held.EventsAsync1000(),
        held.EventsAsync10000(),
        held.Idle1000(),
        held.Idle10000(),
        held.Waiting1000(),
        held.Waiting10000(),
    )
}
