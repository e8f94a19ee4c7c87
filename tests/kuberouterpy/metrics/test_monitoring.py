"""Alert rules and dashboard, judged by promtool, and docs/metrics.md: every series they use is one the agent has."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from kuberouterpy.config import Config
from kuberouterpy.dataplane import Chain, ChainKey, Table
from kuberouterpy.drivers.policy_counters import Denied
from kuberouterpy.exposition import Distribution, Metric
from kuberouterpy.family import FAMILIES
from kuberouterpy.metrics import Denier, Names, Place, Scrape, metrics
from kuberouterpy.metrics.compat import kube_proxy, kube_router
from kuberouterpy.status import SourceStatus, Status
from kuberouterpy.tally import STEP_BOUNDS, Figures
from tests.documents import ROOT
from tests.kuberouterpy.metrics.test_metrics import NEIGHBORS, READINGS
from tests.kuberouterpy.test_record import Ref

MONITORING = ROOT / "manifests" / "monitoring"
DOCUMENT = ROOT / "docs" / "metrics.md"
RULES = yaml.safe_load((MONITORING / "rules.yaml").read_text())["groups"][0]["rules"]
DASHBOARD = json.loads((MONITORING / "dashboard.json").read_text())
HEAD = """# Metrics

Served on port 20241 (`--metrics-port`, 0: none; `--metrics-addr`, `--metrics-path`) in Prometheus' text format 0.0.4.
Counters of servers and of denied packets are read from the kernel when asked, everything else is what the loop published
last; a scrape never waits for the loop longer than a second. Alert rules and a Grafana dashboard are in
`manifests/monitoring/`.

`--metrics-compat=kube-router,kube-proxy` adds the names of those two where the meaning is the same,
`--metrics-real-servers` the metrics `kuberouterpy_real_server_...` of each real server.

The network programming latency is kube-proxy's SLI: from the annotation `endpoints.kubernetes.io/last-change-trigger-time`
of a slice to the end of the step that programmed it, one sample a slice and step; changes from before the agent's start do
not count.

This page is made from the code by `pytest tests/kuberouterpy/metrics/test_monitoring.py --update`.
"""


def promtool(*words: str) -> str:
    done = subprocess.run(["promtool", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def full() -> Scrape:
    """Return a scrape in which every metric has a sample."""
    spread = Distribution(STEP_BOUNDS, (1,) * (len(STEP_BOUNDS) + 1))
    chain = ChainKey(FAMILIES[0], Table.FILTER, "KUBE-POD-FW-A")
    assert Chain(chain).key == chain
    assert READINGS.ipvs is not None
    return Scrape(
        status=Status("n", "0", objects={"Chain": 1}, records={"Pod": 1}, sources=(SourceStatus("kubernetes", True),)),
        figures=Figures(
            {("chain", "create", "ok"): 1},
            {("ipvs", "list"): spread, ("ipvs", "apply"): spread, ("iptables", "apply"): spread}
            | {("gobgp", "apply"): spread, ("routes", "apply"): spread},
            {("ipvs", "list"): 1},
            spread,
            {("chain", "missing"): 1},
            {"IPv4": spread},
            1.0,
            {"Pod": 1},
        ),
        readings=READINGS.__class__(
            **{name: getattr(READINGS, name) for name in READINGS.__struct_fields__ if name != "denied"},
            denied=(Denied(FAMILIES[0], chain.name, "IDIDIDID", 1, 60),),
        ),
        names=Names(
            {one.key: Place(Ref("default", "web")) for one in READINGS.ipvs.servers},
            {(chain, "IDIDIDID"): Denier(Ref("default", "web-1"), "ingress", "p")},
        ),
        neighbors=NEIGHBORS,
    )


def row(metric: Metric) -> str:
    labels = list(dict.fromkeys(name for sample in metric.samples for name in sample.labels))
    return f"| `{metric.name}` | {metric.type} | {', '.join(f'`{one}`' for one in labels)} | {metric.help} |"


def document() -> str:
    table = "| name | type | labels | what |\n|---|---|---|---|"
    parts = [HEAD, "## Ours\n", table, *map(row, metrics(full()))]
    parts += ["\n## kube-router's (`--metrics-compat=kube-router`)\n", table, *map(row, kube_router(full()))]
    parts += ["\n## kube-proxy's (`--metrics-compat=kube-proxy`)\n", table, *map(row, kube_proxy(full()))]
    return "\n".join(parts) + "\n"


def used(text: str) -> set[str]:
    """Return the metrics that a text with expressions uses."""
    return {re.sub(r"_(bucket|sum|count)$", "", one) for one in re.findall(r"\bkuberouterpy_\w+", text)}


def expressions() -> list[str]:
    """Return every expression of the dashboard with its variables filled in."""
    found = [target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", ())]
    return [one.replace("$instance", ".*") for one in found]


def test_every_metric_of_ours_has_a_sample_in_a_full_scrape() -> None:
    assert [one.name for one in metrics(full()) if not one.samples] == []


def test_the_page_lists_every_metric_as_the_code_has_it(request: pytest.FixtureRequest) -> None:
    wanted = document()
    if request.config.getoption("--update"):
        DOCUMENT.write_text(wanted)
    assert DOCUMENT.read_text() == wanted, "run: pytest tests/kuberouterpy/metrics/test_monitoring.py --update"


def test_alerts_and_dashboard_use_only_what_the_agent_exports() -> None:
    exported = {one.name for one in metrics(full())}
    asked = used("\n".join([*(rule["expr"] for rule in RULES), *expressions()]))
    assert asked - exported == set()
    assert len(asked) > 20


def test_promtool_accepts_the_rules_and_what_they_are_tested_with() -> None:
    promtool("check", "rules", str(MONITORING / "rules.yaml"))
    promtool("test", "rules", str(MONITORING / "rules_test.yaml"))


def test_agents_are_found_on_nodes_of_both_families(tmp_path: Path) -> None:
    (job,) = yaml.safe_load((MONITORING / "scrape.yaml").read_text())["scrape_configs"]
    assert job.pop("kubernetes_sd_configs") == [{"role": "node"}]
    path = tmp_path / "scrape.yaml"  # Debian's promtool is built without discovery in Kubernetes
    path.write_text(yaml.safe_dump({"scrape_configs": [{**job, "static_configs": [{"targets": ["a:1"]}]}]}))
    promtool("check", "config", str(path))
    rules = [one for one in job["relabel_configs"] if one["target_label"] == "__address__"]
    made = {
        address: [one["replacement"].replace("$1", address) for one in rules if re.fullmatch(one["regex"], address)]
        for address in ("10.0.0.1", "fd00::1")
    }
    port = Config().metrics_port
    assert made == {"10.0.0.1": [f"10.0.0.1:{port}"], "fd00::1": [f"[fd00::1]:{port}"]}


def test_every_alert_is_tested_to_fire() -> None:
    cases = (MONITORING / "rules_test.yaml").read_text()
    assert [rule["alert"] for rule in RULES if f'alertname="{rule["alert"]}"' not in cases] == []


def test_every_alert_says_what_it_is_and_what_to_do() -> None:
    for rule in RULES:
        assert rule["labels"]["severity"] in {"critical", "warning", "info"}
        assert {*rule["annotations"]} == {"summary", "description"}


def test_promtool_accepts_every_expression_of_the_dashboard(tmp_path: Path) -> None:
    rules = [{"record": f"panel:{number}", "expr": one} for number, one in enumerate(expressions())]
    path = tmp_path / "panels.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    assert f"{len(rules)} rules found" in promtool("check", "rules", str(path))


def test_no_panel_of_the_dashboard_lies_upon_another() -> None:
    places = [panel["gridPos"] for panel in DASHBOARD["panels"]]
    cells = [
        (x, y)
        for place in places
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(cells) == len(set(cells))
    assert all(place["x"] + place["w"] <= 24 for place in places)
