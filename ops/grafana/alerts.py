"""What both dashboards show first: the alerts of ops/prometheus/rules that fire."""

from __future__ import annotations

from ops.grafana.spec import GREEN, RED, WHOLE, Kind, Panel, Query, Row

ALERTS = Row(
    "Alerts",
    (
        Panel(
            "Alerts that fire",
            "A row for each alert of this stream that fires, or has fired in the time that is shown, with "
            "its severity: page, ticket, or info. What to do about each is in ops/RUNBOOK.md, under its "
            "name.",
            "none",
            (
                Query(
                    'max by (alertname, severity) (ALERTS{alertname=~"Streamlearn.+",alertstate="firing",'
                    'job=~"$job|"}) or on () label_replace(vector(0), "alertname", "none", "", "")',
                    "{{alertname}} {{severity}}",
                ),
            ),
            Kind.STATES,
            width=WHOLE,
            words={0: ("all is well", GREEN), 1: ("fires", RED)},
        ),
    ),
)
