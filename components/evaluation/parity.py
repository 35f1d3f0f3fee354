# SPDX-License-Identifier: Apache-2.0
"""The parity step: served requests, made again offline, have the same features and scores.

It takes a day's logged requests and sends probes of its own. What is compared is
`components.evaluation.differences`' to say, the offline path is `components.evaluation.replay`.
"""

from __future__ import annotations

from components.config import DailyConfig
from components.console import progress
from components.evaluation.differences import Findings, Models, compare
from components.evaluation.replay import Offline
from components.evaluation.requests import boundary_of, logged_requests, send_probes
from components.layout.paths import Layout
from components.registry.records import Parity
from components.registry.run import Run


def parity(layout: Layout, day: str, config: DailyConfig) -> Parity:
    """Replays the day's requests and probes; writes runs/<day>/parity.json.

    Args:
        layout: a run whose online store is as of the end of `day` and whose model of the day is
            trained.
        day: the as-of day.
        config: says how many requests are replayed.

    Returns:
        What was written: counts, the largest differences, the bound.

    Raises:
        ValueError: a feature or score that differs (which, of which member and post, both values),
            or a store that is not as of the end of a day.
    """
    logged, skipped = logged_requests(layout, day, config)
    count = max(config.parity_requests - len(logged), (config.parity_requests + 1) // 2)
    probes = send_probes(layout, day, config, count)
    offline, models, findings = Offline(layout, config), Models(layout, day), Findings()
    with progress("parity", len(logged) + len(probes)) as advance:
        for requests in filter(None, (logged, probes)):
            boundary = boundary_of(config.spec, requests[0].time_ms)
            for request, again in zip(requests, offline.replay(requests, boundary), strict=True):
                compare(config.spec, request, again, models, findings)
                advance()
    result = Parity(
        day=day,
        logged=len(logged),
        probes=len(probes),
        skipped=dict(skipped),
        **vars(findings),
    )
    Run(layout, day).write(result)
    return result
