"""The Grafana dashboard of `panels.py`, one for all stacks: data source and namespace are chosen in it.

`python -m ops dashboard` prints it; with `metrics.dashboard` the stack declares it. docs/dashboard.md shows it.
"""

from __future__ import annotations

import json
from typing import Any

from grafana_foundation_sdk.builders import common, prometheus, timeseries
from grafana_foundation_sdk.builders import dashboard as grafana
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as model_common
from grafana_foundation_sdk.models import dashboard as model

from infra.panels import ROWS, Panel

UID = "session-store"
SOURCE = model.DataSourceRef(type_val="prometheus", uid="$datasource")


def dashboard() -> dict[str, Any]:
    """The dashboard as Grafana 11.6 and newer import it."""
    board = (
        grafana.Dashboard("Session store")
        .uid(UID)
        .tags(["session-store", "redis"])
        .description("The session store of an Express API")
        .editable()
        .refresh("30s")
        .time("now-3h", "now")
        .with_variable(grafana.DatasourceVariable("datasource").label("Data source").type("prometheus"))
        .with_variable(
            grafana.QueryVariable("namespace")
            .label("Namespace")
            .datasource(SOURCE)
            .query("label_values(session_store_connected, namespace)")
        )
    )
    for title, panels in ROWS.items():
        board = board.with_row(grafana.Row(title))
        for panel in panels:
            board = board.with_panel(_drawn(panel))
    found: dict[str, Any] = json.loads(JSONEncoder(sort_keys=True).encode(board.build()))
    return found


def _drawn(panel: Panel) -> timeseries.Panel:
    drawn = (
        timeseries.Panel()
        .title(panel.title)
        .description(panel.why)
        .datasource(SOURCE)
        .unit(panel.unit)
        .axis_soft_min(0)
        .span(8)
        .height(8)
        .fill_opacity(8)
    )
    if panel.limit is not None:
        steps = [model.Threshold(color="green"), model.Threshold(value=panel.limit, color="red")]
        drawn = drawn.thresholds(grafana.ThresholdsConfig().mode(model.ThresholdsMode.ABSOLUTE).steps(steps))
        drawn = drawn.thresholds_style(
            common.GraphThresholdsStyleConfig().mode(model_common.GraphThresholdsStyleMode.DASHED)
        )
    for number, (legend, query) in enumerate(panel.queries.items()):
        drawn = drawn.with_target(
            prometheus.Dataquery().expr(query).legend_format(legend).ref_id(chr(ord("A") + number)).range()
        )
    return drawn
