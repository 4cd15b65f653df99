#!/usr/bin/python3
"""The demonstration on every driver and NAT kind, then what must survive: the control process killed under a download,
new names after its return, and buffers and flow memory back to where they started."""

import contextlib
import hashlib
import io
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

from demo import Demo
from penstock_lab.lab import Lab
from penstock_lab.process import wait_until
from penstock_lab.topology import LabError, namespaces

BUILD = os.environ.get("PENSTOCK_BUILD")

# (driver, client's NAT, gateway's NAT, unexpected packets)
CASES = (
    ("af_packet", "preserving", "preserving", "drop"),
    ("af_packet", "random", "random", "drop"),
    ("af_packet", "preserving", "random", "reject"),
    ("af_xdp", "preserving", "preserving", "reject"),
    ("af_xdp", "random", "random", "drop"),
    ("tap", "preserving", "preserving", "drop"),
)


def pools(lab):
    return {row["name"]: row.get("pool_free") for row in lab.penstock.ctl("dataplane", "show", "ports")["ports"]}


def flows(lab):
    return int(lab.penstock.ctl("dataplane", "show", "flows").get("total", 0))


def peers(lab):
    return lab.penstock.ctl("dataplane", "show", "peers").get("peers", [])


def gateway_killed_during_download(lab, demo):
    """kill -9 of penstock-gateway does not interrupt a download; new names work after its restart"""
    _, expected = lab.services.big_file()
    target = lab.directory / "downloaded"
    download = subprocess.Popen(
        ["ip", "netns", "exec", lab.network.namespace("client"), "curl", "-sS", "--limit-rate", "12M", "-o",
         str(target), "http://web.corp.example/big"], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    wait_until(lambda: target.exists() and target.stat().st_size > 4_000_000, 20, "start of the download")
    lab.processes.kill("gateway")
    errors, _ = download.communicate(timeout=120)
    if download.returncode != 0:
        raise LabError(f"download broke: {errors.strip()}")
    if hashlib.sha256(target.read_bytes()).hexdigest() != expected:
        raise LabError("checksum differs")
    target.unlink()
    demo.curl("http://web.corp.example/", "-4")  # an existing name still works without the control process
    lab.start("gateway")
    demo.curl("http://n7.corp.example/", "-4")
    demo.curl("http://n8.corp.example/", "-6")


def dataplane_restarted(lab, demo):
    """a restarted data plane is filled again by the control process and serves the client"""
    lab.restart("dataplane")

    def works():
        code, _, _ = demo.client("curl", "-sS", "--max-time", "3", "http://web.corp.example/", "-4")
        return code == 0
    wait_until(works, 30, "the client through the restarted data plane")


def nothing_leaks(lab, demo, start):
    """without the client, flows and peers are gone and every buffer is back in its pool"""
    config = lab.penstock.config_file("portal")

    document = json.loads(config.read_text())
    document["clients"] = []
    config.write_text(json.dumps(document))

    lab.processes.stop("client")
    lab.processes.kill("portal", signal.SIGHUP)
    wait_until(lambda: not peers(lab), 15, "end of the client's peer")
    wait_until(lambda: flows(lab) == 0, 15, "end of the client's flows")
    try:
        wait_until(lambda: pools(lab) == start, 15, "buffers back in their pools")
    except LabError as error:
        raise LabError(f"{error}: started with {start}, now {pools(lab)}") from None


def clean_end(lab, demo):
    """every process ends by itself on SIGTERM and leaves nothing behind"""
    prefix = lab.network.instance
    resolv = pathlib.Path("/etc/netns") / lab.network.namespace("client") / "resolv.conf"
    lab.processes.stop("client")
    if "198.51.100.53" not in resolv.read_text():
        raise LabError(f"resolv.conf was not put back: {resolv.read_text()!r}")
    rules = lab.network.ip("client", "rule", "list", capture=True) + lab.network.ip(
        "client", "-6", "rule", "list", capture=True)
    if len([line for line in rules.splitlines() if "lookup" in line]) != 5:
        raise LabError(f"routing rules left behind:\n{rules}")
    stubborn = lab.down()
    if stubborn:
        raise LabError(f"had to be killed: {' '.join(stubborn)}")
    left = [name for name in namespaces() if name.startswith(prefix)]
    if left or lab.directory.exists():
        raise LabError(f"left behind: {left} {lab.directory if lab.directory.exists() else ''}")


def report(name, action):
    """Runs one test; prints its line. True when it passed."""
    started = time.monotonic()
    try:
        action()
    except (LabError, subprocess.TimeoutExpired, AssertionError) as error:
        print(f"FAIL {name}: {' | '.join(str(error).splitlines())}", flush=True)
        return False
    print(f"PASS {name}  ({time.monotonic() - started:.1f} s)", flush=True)
    return True


def run_case(driver, client_nat, gateway_nat, unexpected):
    name = f"{driver}, NATs {client_nat}/{gateway_nat}, {unexpected}"
    lab = Lab.anew("test")
    good = True
    transcript = io.StringIO()
    try:
        if not report(f"lab up: {name}", lambda: lab.up(client_nat, gateway_nat, unexpected, driver, BUILD)):
            return False
        start = pools(lab)
        demo = Demo(lab, transcript)
        good &= report(f"demo: {name}", demo.run)
        if good and driver != "tap":
            for test in (gateway_killed_during_download, dataplane_restarted):
                good &= report(f"{test.__name__}: {name}", lambda t=test: t(lab, demo))
            start = None if not good else start
        if good:
            # A restart gave new pools; their sizes are the same, and so must be what is free.
            good &= report(f"nothing_leaks: {name}", lambda: nothing_leaks(lab, demo, start))
            good &= report(f"clean_end: {name}", lambda: clean_end(lab, demo))
    finally:
        if not good:
            print(transcript.getvalue())
            if lab.settings:
                lab.save_logs()
                for process in ("portal", "dataplane", "gateway", "client", "relay"):
                    print(f"--- {process}\n{lab.processes.tail(process, 25)}")
        with contextlib.suppress(LabError):
            lab.down()
    return good


def side_by_side():
    """two instances at once, and one of them twice in a row"""
    one, two = Lab("testa"), Lab("testb")
    try:
        one.up(processes=(), build=BUILD)
        two.up(processes=(), build=BUILD)
        one.down()
        one = Lab("testa")
        one.up(processes=(), build=BUILD)
        for lab in (one, two):
            text = lab.network.inside("client", "curl", "-s", "--max-time", "5", "http://198.51.100.80/", capture=True)
            assert "server=public" in text, text
    finally:
        one.down()
        two.down()
    left = [name for name in namespaces() if "-testa-" in name or "-testb-" in name]
    assert not left, left


def main():
    good = report("two labs side by side, one twice in a row", side_by_side)
    for case in CASES:
        good &= run_case(*case)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
