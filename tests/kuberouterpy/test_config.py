"""Config: flags become values once, and what is wrong is named with its mend."""

from __future__ import annotations

import pytest

from kuberouterpy.config import DEFAULTS, Config, parse, without_effect
from kuberouterpy.errors import ConfigError
from kuberouterpy.family import IPV4, IPV6
from kuberouterpy.flags import BY_NAME, DURATION, FLAGS, default_text, duration, duration_text


def test_no_flag_gives_kube_routers_defaults() -> None:
    assert parse({}, hostname="worker-1") == Config(node_name="worker-1")


def test_every_flag_has_a_field_and_every_field_a_flag() -> None:
    assert {flag.field for flag in FLAGS if not flag.secret} == set(DEFAULTS) - {"node_name"}
    assert len(BY_NAME) == len(FLAGS)


@pytest.mark.parametrize("flag", [flag for flag in FLAGS if not flag.secret], ids=lambda flag: flag.name)
def test_the_default_shown_reads_back_as_the_default(flag) -> None:
    shown = default_text(flag, DEFAULTS[flag.field])
    if not flag.form.many and (shown or DEFAULTS[flag.field] != ""):
        assert flag.form.read(shown) == DEFAULTS[flag.field]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0", 0), ("90s", 90), ("5m0s", 300), ("1h2m", 3720), ("1h2m3.5s", 3723.5), ("250ms", 0.25), (".5m", 30)],
)
def test_durations_are_read_as_go_reads_them(text: str, seconds: float) -> None:
    assert duration(text) == seconds


@pytest.mark.parametrize("text", ["", "5", "5 m", "m", "-5s", "5m x", "1d", "٥s"])
def test_what_go_does_not_read_as_a_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration; write"):
        duration(text)


@pytest.mark.parametrize("seconds", [0.0, 0.25, 1.0, 60.0, 90.0, 300.0, 3600.0, 65535.0])
def test_durations_are_written_so_that_they_read_back(seconds: float) -> None:
    assert duration(duration_text(seconds)) == seconds
    assert DURATION.read(duration_text(seconds)) == seconds


def test_lists_take_commas_and_repeats_and_become_canonical() -> None:
    config = parse({"excluded-cidrs": ["10.0.0.1/8, FD00::1/64", "010.0.0.0/8"]})
    assert config.excluded_cidrs == ("10.0.0.0/8", "fd00::/64")


def test_an_empty_list_is_empty_and_not_the_default() -> None:
    assert parse({"service-cluster-ip-range": ""}).service_cluster_ip_range == ()


def test_aligned_lists_keep_their_repeats() -> None:
    config = parse({"peer-router-ips": "10.0.0.1,fd00::1", "peer-router-asns": "64513,64513"})
    assert config.peer_router_asns == (64513, 64513)


def test_the_last_of_repeated_flags_counts() -> None:
    assert parse({"bgp-port": ["1179", "2179"]}).bgp_port == 2179


def test_the_node_is_named_by_flag_then_environment_then_host() -> None:
    environ = {"NODE_NAME": "from-environment"}
    assert parse({"hostname-override": "given"}, environ=environ, hostname="Host").node_name == "given"
    assert parse({}, environ=environ, hostname="Host").node_name == "from-environment"
    assert parse({}, hostname="Host").node_name == "host"


def test_the_cni_file_is_named_by_flag_then_environment() -> None:
    environ = {"KUBE_ROUTER_CNI_CONF_FILE": "/etc/cni/net.d/mine.conflist"}
    assert parse({}, environ=environ).cni_conf_file == "/etc/cni/net.d/mine.conflist"
    assert parse({"cni-conf-file": "/a.conflist"}, environ=environ).cni_conf_file == "/a.conflist"
    assert parse({}).cni_conf_file == "/etc/cni/net.d/10-kuberouter.conflist"


def test_families_follow_their_flags() -> None:
    assert parse({}).families == (IPV4,)
    assert parse({"enable-ipv6": "true"}).families == (IPV4, IPV6)
    assert parse({"enable-ipv6": "true", "enable-ipv4": "false"}).families == (IPV6,)


def test_asn_zero_is_the_default_asn() -> None:
    assert parse({"cluster-asn": "0"}).cluster_asn == 64512


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"ipvs-sync-priod": "5m"}, "--ipvs-sync-priod is not a flag; did you mean --ipvs-sync-period?"),
        ({"ipvs-sync-period": "5"}, "--ipvs-sync-period '5' is not a duration; write 5s for seconds"),
        ({"ipvs-sync-period": "0"}, "--ipvs-sync-period 0s is too short; give at least 1s"),
        ({"run-router": "yes"}, "--run-router 'yes' is not a boolean; write true or false"),
        ({"bgp-port": "65536"}, "--bgp-port '65536' is out of range; write a number from 1 to 65535"),
        ({"bgp-port": "9" * 5000}, "is not a whole number"),
        ({"cluster-asn": "1"}, "--cluster-asn 1 is not private; take 64512-65535 or 4200000000-4294967294"),
        ({"service-cluster-ip-range": "10.0.0.0"}, "--service-cluster-ip-range '10.0.0.0' has no prefix length"),
        ({"service-cluster-ip-range": "10.0.0.0/33"}, "'10.0.0.0/33' is not a prefix"),
        ({"service-cluster-ip-range": "10.0.0.0/8,11.0.0.0/8"}, "has 10.0.0.0/8 and 11.0.0.0/8; give one IPv4 range"),
        ({"service-node-port-range": "30000"}, "is not a range of ports; write it as 30000-32767"),
        ({"service-node-port-range": "32767-30000"}, "ends before it begins; write 30000-32767"),
        ({"bgp-holdtime": "1s"}, "--bgp-holdtime 1s is out of range; give 3s to 18h12m15s"),
        ({"overlay-encap": "gre"}, "--overlay-encap 'gre' is unknown; write ipip or fou or vxlan"),
        ({"router-id": "fd00::1"}, "is not a router ID; write an IPv4 address or generate"),
        ({"gobgp-socket": "gobgp.sock"}, "is not an absolute path; begin it with /"),
        ({"max-delete-ratio": "nan"}, "--max-delete-ratio 'nan' is out of range"),
        ({"peer-router-ips": "10.0.0.1"}, "--peer-router-asns has 0 items for 1 --peer-router-ips"),
        ({"enable-ipv4": "false"}, "leave no address family; enable one"),
        ({"run-router": "false", "run-firewall": "0", "run-service-proxy": "F"}, "nothing is to run"),
    ],
)
def test_a_wrong_setting_is_named_with_its_mend(given: dict[str, str], told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(given)
    assert told in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_all_wrong_settings_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        parse({"bgp-port": "x", "run-router": "x", "no-such": "x", "cluster-asn": "5"})
    assert len(str(caught.value).splitlines()) == 4


def test_a_password_on_the_command_line_is_neither_kept_nor_shown() -> None:
    given = {"peer-router-passwords": "aHVudGVyMg=="}
    assert "aHVudGVyMg" not in repr(parse(given))
    assert "aHVudGVyMg" not in str(without_effect(given))


def test_flags_without_effect_are_told_only_when_given() -> None:
    assert without_effect({"run-router": "true"}) == []
    told = without_effect({"ipvs-graceful-period": "30s", "enable-pprof": "true"})
    assert [flag.name for flag, _ in told] == ["enable-pprof", "ipvs-graceful-period"]
    assert all(reason for _, reason in told)
