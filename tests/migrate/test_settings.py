"""Settings of kube-router and kube-proxy become flags, or differences with a reason; never nothing."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import yaml

from kuberouterpy.config import parse
from kuberouterpy.errors import ConfigError
from kuberouterpy.migrate.settings import of_kube_proxy, read
from manifests import render

CONFIGURATION = """
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
bindAddress: 0.0.0.0
clientConnection: {acceptContentTypes: "", burst: 0, kubeconfig: /var/lib/kube-proxy/kubeconfig.conf, qps: 0}
clusterCIDR: 10.244.0.0/16,fd00:10:244::/56
configSyncPeriod: 0s
conntrack: {maxPerCore: 0, min: null, tcpCloseWaitTimeout: 30m0s}
detectLocalMode: ""
enableProfiling: false
healthzBindAddress: 0.0.0.0:10257
hostnameOverride: node-1
iptables: {masqueradeAll: true, masqueradeBit: null, minSyncPeriod: 0s, syncPeriod: 0s}
ipvs:
  excludeCIDRs: [192.0.2.0/24]
  minSyncPeriod: 5s
  scheduler: lc
  strictARP: true
  syncPeriod: 2m0s
  tcpFinTimeout: 0s
  tcpTimeout: 900s
  udpTimeout: 0s
metricsBindAddress: "[::1]:10249"
mode: ipvs
nodePortAddresses: [198.51.100.0/24, "2001:db8::/64"]
someday: 1
"""


def test_kube_proxys_configmap_becomes_flags_and_differences() -> None:
    configmap = {"kind": "ConfigMap", "data": {"config.conf": CONFIGURATION, "kubeconfig.conf": "kind: Config\n"}}
    found = read(yaml.safe_dump(configmap))
    assert found.source == "kube-proxy"
    assert found.flags == {
        "run-router": "false",
        "run-firewall": "false",
        "hostname-override": "node-1",
        "proxy-health-port": "10257",
        "metrics-addr": "::1",
        "metrics-port": "10249",
        "masquerade-all": "true",
        "nodeport-addresses": "198.51.100.0/24,2001:db8::/64",
        "excluded-cidrs": "192.0.2.0/24",
        "ipvs-sync-period": "2m0s",
        "ipvs-scheduler": "lc",
        "service-tcp-timeout": "900s",
    }
    assert parse(found.flags).service_tcp_timeout_s == 900
    told = dict(found.differences)
    assert set(told) == {
        "bindAddress: 0.0.0.0",
        "clientConnection.kubeconfig: /var/lib/kube-proxy/kubeconfig.conf",
        "clusterCIDR: 10.244.0.0/16,fd00:10:244::/56",
        "conntrack.tcpCloseWaitTimeout: 30m0s",
        "ipvs.minSyncPeriod: 5s",
        "ipvs.strictARP: true",
        "someday: 1",
    }
    assert told["someday: 1"] == "not known here; nothing is done about it"
    assert "sysctl" in told["conntrack.tcpCloseWaitTimeout: 30m0s"]


@pytest.mark.parametrize(
    ("setting", "word"),
    [
        ({"mode": "iptables"}, "always IPVS"),
        ({"nodePortAddresses": ["primary"]}, "--nodeport-addresses"),
        ({"ipvs": {"tcpTimeout": "1 day"}}, "is not a duration"),
        ({"ipvs": {"scheduler": "lottery"}}, "is unknown; write rr"),
        ({"healthzBindAddress": "127.0.0.1:1"}, "--proxy-health-port"),
        ({"winkernel": {"sourceVip": "192.0.2.1"}}, "Linux only"),
    ],
)
def test_a_setting_without_a_flag_is_a_difference(setting: dict[str, Any], word: str) -> None:
    ((_, reason),) = of_kube_proxy({"kind": "KubeProxyConfiguration"} | setting).differences
    assert word in reason


ARGUMENTS = [
    "/usr/local/bin/kube-router", "--run-router=true", "--run-firewall", "--run-service-proxy=false", "-v", "2",
    "--peer-router-ips=192.0.2.1", "--peer-router-ips", "2001:db8::1", "--peer-router-asns=64513,64513",
    "--hairpin-mode", "--advertise-clusterip=true", "--bgp-holdtime=1h", "--cluster-asn=many",
]  # fmt: skip


@pytest.mark.parametrize("form", ["arguments", "daemonset", "list"])
def test_kube_routers_arguments_become_flags_and_differences(form: str) -> None:
    container = {"name": "kube-router", "image": "example/kube-router", "args": ARGUMENTS[1:]}
    daemonset = {"kind": "DaemonSet", "spec": {"template": {"spec": {"containers": [{"name": "other"}, container]}}}}
    text = {
        "arguments": " ".join(ARGUMENTS),
        "daemonset": yaml.safe_dump(daemonset),
        "list": yaml.safe_dump({"kind": "List", "items": [{"kind": "ConfigMap"}, daemonset]}),
    }[form]
    found = read(text)
    assert found.flags == {
        "run-service-proxy": "false",
        "run-router": "true",
        "run-firewall": "true",
        "v": "2",
        "bgp-holdtime": "1h",
        "peer-router-ips": "192.0.2.1,2001:db8::1",
        "peer-router-asns": "64513,64513",
    }
    parse(found.flags)
    told = dict(found.differences)
    assert "always on" in told["--hairpin-mode"]
    assert told["--advertise-clusterip"] == "no such flag; the nearest is --advertise-cluster-ip"
    assert "is not a whole number" in told["--cluster-asn=many"]
    assert "keeps the routes" in told["--bgp-graceful-restart"]


def test_what_is_neither_is_refused_with_what_it_holds() -> None:
    with pytest.raises(ConfigError, match="holds Deployment, Service; give kube-router's"):
        read("kind: Service\n---\nkind: Deployment\nspec: {template: {spec: {containers: [{name: a, image: b}]}}}\n")


def test_the_command_prints_values_that_the_chart_takes() -> None:
    words = [sys.executable, "-m", "kuberouterpy", "config", "import", "-", "-o", "values", "--exit-code"]
    done = subprocess.run(words, input=CONFIGURATION, capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert "differs: ipvs.minSyncPeriod: 5s: " in done.stderr
    values = yaml.safe_load(done.stdout)
    assert values["features"] == {"router": False, "firewall": False}
    assert set(values["flags"]) <= set(render.schema()["properties"]["flags"]["properties"])
