"""Options of single ports: what may be set, and that nothing of a user's gets past its option."""

from __future__ import annotations

import random
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kilonova.errors import BadRequest
from kilonova.network.dhcp_options import MOST_OPTIONS, changed_options, option_text


@pytest.mark.parametrize(
    ("name", "value", "version", "text"),
    [
        ("mtu", "1400", 4, "option:mtu,1400"),
        ("26", "1400", 4, "option:mtu,1400"),
        ("bootfile-name", "pxelinux.0", 4, "option:bootfile-name,pxelinux.0"),
        ("dns-server", "9.9.9.9, 192.0.2.53", 4, "option:dns-server,9.9.9.9,192.0.2.53"),
        ("domain-search", "a.example.org.,b", 4, "option:domain-search,a.example.org,b"),
        ("classless-static-route", "10.1.2.3/8,10.0.0.1", 4, "option:classless-static-route,10.0.0.0/8,10.0.0.1"),
        ("252", "http://wpad/wpad.dat", 4, "252,http://wpad/wpad.dat"),
        ("dns-server", "2001:DB8::53,[2001:db8::54]", 6, "option6:dns-server,[2001:db8::53],[2001:db8::54]"),
        ("59", "http://[2001:db8::1]/x", 6, None),
        ("bootfile-url", "http://boot/x", 6, "option6:bootfile-url,http://boot/x"),
        ("mtu", "67", 4, None),
        ("mtu", "1400,9", 4, None),
        ("mtu", "²", 4, None),
        ("router", "2001:db8::1", 4, None),
        ("router", "10.0.0.1%x\ny", 4, None),
        ("dns-server", "9.9.9.9", 6, None),
        ("server-identifier", "10.0.0.1", 4, None),
        ("54", "10.0.0.1", 4, None),
        ("252", "a\nport=1", 4, None),
        ("252", "*", 4, None),
        ("252", "x" * 201, 4, None),
        ("224", "1.2.3.4", 4, "224,1.2.3.4"),
        ("224", "12", 4, "224,12"),
        ("224", "1.2", 4, None),
        ("224", "1.2.3.4/8", 4, None),
        ("254", "1/2", 4, None),
        ("252", "x1.2/", 4, "252,x1.2/"),
        ("252", "x", 6, None),
        ("bootfile-name", "a,b", 4, None),
        ("classless-static-route", "10.0.0.0/8", 4, None),
    ],
)
def test_option_is_written_or_refused(name: str, value: str, version: int, text: str | None) -> None:
    assert option_text(name, value, version) == text


@given(st.text(), st.text(), st.sampled_from((4, 6)))
def test_no_option_ends_its_line_or_begins_a_quotation(name: str, value: str, version: int) -> None:
    for each in (name, "252", "bootfile-name", "domain-name", "dns-server"):
        text = option_text(each, value, version)
        assert text is None or not set(text) & set("\n\r\"'\\#*; \t")


@pytest.mark.skipif(shutil.which("dnsmasq") is None, reason="needs dnsmasq")
@pytest.mark.parametrize("alphabet", ["0123456789.", "0123456789./", "0123456789abcdef:", "019-.x/:_"])
def test_dnsmasq_takes_whatever_is_not_refused(alphabet: str, tmp_path: Path) -> None:
    chosen = random.Random(alphabet)
    values = ["".join(chosen.choices(alphabet, k=chosen.randint(1, 12))) for _ in range(400)]
    options = [
        text
        for value in values
        for name in ("224", "bootfile-name", "root-path", "domain-name")
        if (text := option_text(name, value, 4)) is not None
    ]
    config = tmp_path / "dnsmasq.conf"
    config.write_text("".join(f"dhcp-option=tag:port-x,{text}\n" for text in options))

    done = subprocess.run(["dnsmasq", "--test", f"--conf-file={config}"], capture_output=True, text=True, check=False)

    assert options
    assert done.returncode == 0, done.stderr


def test_options_change_by_name_and_version() -> None:
    before = changed_options(
        (), [{"opt_name": "mtu", "opt_value": "1400"}, {"opt_name": "router", "opt_value": "10.0.0.9"}]
    )
    after = changed_options(
        before,
        [
            {"opt_name": "mtu", "opt_value": None},
            {"opt_name": "dns-server", "opt_value": "2001:db8::53", "ip_version": 6},
        ],
    )

    assert after == [
        {"opt_name": "router", "opt_value": "10.0.0.9", "ip_version": 4},
        {"opt_name": "dns-server", "opt_value": "2001:db8::53", "ip_version": 6},
    ]


@pytest.mark.parametrize(
    "wanted",
    [
        [{"opt_name": "colour", "opt_value": "red"}],
        [{"opt_name": "mtu", "opt_value": "much"}],
        [{"opt_name": "mtu", "opt_value": "1400", "ip_version": 5}],
        [{"opt_name": str(number), "opt_value": "x"} for number in range(224, 225 + MOST_OPTIONS)],
    ],
)
def test_wrong_option_is_refused_by_its_field(wanted: list[dict[str, object]]) -> None:
    with pytest.raises(BadRequest, match="extra_dhcp_opts"):
        changed_options((), wanted)
