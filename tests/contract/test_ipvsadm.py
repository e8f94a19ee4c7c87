"""``ipvs -o ipvsadm`` against the real tool on a real kernel, byte for byte."""

from __future__ import annotations

import socket
import subprocess

import pytest

from kuberouterpy.cli import main
from kuberouterpy.cli.ipvsadm import Form, lines
from kuberouterpy.drivers.ipvs_table import read

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("netns")]

# Every forward, both families, marks, persistence with and without a mask, flags, one-packet, SCTP, tunnels of each kind; and
# addresses whose differences wrap, which the tool orders as nothing else does.
RULES = """\
-A -t 10.96.0.10:80 -s rr
-a -t 10.96.0.10:80 -r 10.1.2.3:8080 -m -w 1
-a -t 10.96.0.10:80 -r 192.168.3.4:8080 -m -w 0
-a -t 10.96.0.10:80 -r 100.64.3.4:8080 -m -w 65535
-a -t 10.96.0.10:80 -r 10.1.2.3:81 -m -w 7
-A -t 192.0.2.1:443 -s wlc -p 10800
-a -t 192.0.2.1:443 -r 10.1.2.9:443 -g -w 3
-A -t 100.64.0.1:443 -s sh -b sh-fallback,sh-port
-A -t 255.255.255.254:65535 -s mh -b mh-port
-a -t 255.255.255.254:65535 -r 255.255.255.253:65535 -m -w 1
-A -u 10.96.0.11:53 -s lc -p 60 -M 255.255.255.0
-A -u 10.96.0.12:53 -s rr -o
-A --sctp-service 10.96.0.13:9 -s sed
-A -t 10.96.0.14:80 -s wrr -b flag-1,flag-3
-A -f 77 -s rr
-a -f 77 -r 10.1.2.3:0 -i -w 1
-a -f 77 -r 10.1.2.4:0 -i -w 1 --tun-type gue --tun-port 6080 --tun-csum
-a -f 77 -r 10.1.2.5:0 -i -w 1 --tun-type gre --tun-nocsum
-A -f 77 -6 -s rr -p 300
-a -f 77 -6 -r [fd00:1:2::3]:0 -i -w 1
-A -f 3000000000 -s rr
-A -t [fd00:96::a]:80 -s rr
-a -t [fd00:96::a]:80 -r [fd00:1:2::4]:8080 -m -w 1
-a -t [fd00:96::a]:80 -r [fd00:1:2::3]:8080 -m -w 2
-A -t [2001:db8:ffff:ffff:ffff:ffff:ffff:fffe]:65535 -s mh
-a -t [2001:db8:ffff:ffff:ffff:ffff:ffff:fffe]:65535 -r [2001:db8:ffff:ffff:ffff:ffff:ffff:fffd]:65535 -g -w 1
-A -u [fd00:96::b]:53 -s lc -p 60 -M 64
-A -t [::102:304]:80 -s rr
-a -t 10.96.0.10:80 -r [fd00:1:2::3]:8080 -i -w 1
"""


def told(*words: str) -> str:
    return subprocess.run(["ipvsadm", *words], check=True, capture_output=True, text=True).stdout


def load(rules: str) -> None:
    # One by one: a kernel without a scheduler or tunnel kind leaves that rule out, on both sides alike.
    accepted = [
        subprocess.run(["ipvsadm", *rule.split()], check=False, capture_output=True).returncode == 0
        for rule in rules.splitlines()
    ]
    assert sum(accepted) >= len(accepted) - 4


@pytest.mark.parametrize(
    ("form", "words"),
    [
        (Form.LIST, ("-Ln",)),
        (Form.STATS, ("-Ln", "--stats")),
        (Form.RATE, ("-Ln", "--rate")),
        (Form.SAVE, ("-Sn",)),
    ],
)
def test_it_is_what_the_tool_prints(form: Form, words: tuple[str, ...]) -> None:
    load(RULES)
    assert "".join(f"{line}\n" for line in lines(read(), form)) == told(*words)


def test_an_empty_table_too() -> None:
    for form, words in ((Form.LIST, ("-Ln",)), (Form.STATS, ("-Ln", "--stats")), (Form.SAVE, ("-Sn",))):
        assert "".join(f"{line}\n" for line in lines(read(), form)) == told(*words)


def test_counters_and_connections_are_the_tools(capsys: pytest.CaptureFixture[str]) -> None:
    load("-A -t 127.0.0.9:80 -s rr\n-a -t 127.0.0.9:80 -r 127.0.0.1:8099 -m -w 1\n")
    with socket.create_server(("127.0.0.1", 8099)) as server, socket.create_connection(("127.0.0.9", 80), 5) as client:
        server.accept()[0].close()
        client.recv(1)
        for words, verb in (((), "list"), (("--stats",), "stats")):
            mine = ["ipvs", verb, "-o", "ipvsadm"]
            before = told("-Ln", *words)
            assert main(mine) == 0
            # The listing may have changed between the two; then the tool says so itself.
            assert capsys.readouterr().out in {before, told("-Ln", *words)}
        assert main(["ipvs", "connections", "-o", "ipvsadm"]) == 0
        shown = capsys.readouterr().out.splitlines()
    assert shown[:2] == told("-Lnc").splitlines()[:2]
    assert [line.split()[3:] for line in shown[2:]] == [line.split()[3:] for line in told("-Lnc").splitlines()[2:]]
    assert len(shown) == 3
