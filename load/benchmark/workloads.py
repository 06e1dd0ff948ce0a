"""All that the benchmark asks of a server, in the order of the table."""

import beside
import driven
import event_streams
import held_open
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
        beside.Beside(),
        event_streams.Events1000(),
        event_streams.Events10000(),
        event_streams.EventsAsync1000(),
        event_streams.EventsAsync10000(),
        held_open.Idle1000(),
        held_open.Idle10000(),
        held_open.Waiting1000(),
        held_open.Waiting10000(),
    )
}
