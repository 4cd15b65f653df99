#!/usr/bin/python3
"""Access networks that exist, and the tunnel through each: several clients and users behind one NAT, carrier-grade NAT
with shared address space that overlaps the tunnel's own range, a client that has such an address itself, DS-Lite, IPv6
alone with NAT64 and DNS64, nothing but TCP to port 443, nothing but an HTTP proxy, a NAT that rejects, a captive portal.

In each: names over both families, a download compared, the client's NATs forgotten in the middle of it."""

import hashlib
import os
import subprocess
import sys
import time

from penstock_lab import access
from penstock_lab import topology as net
from penstock_lab.lab import Lab
from penstock_lab.process import wait_until
from penstock_lab.topology import LabError

NAME = "networks"
BUILD = os.environ.get("PENSTOCK_BUILD")
RELAYED = {"ipv6only", "tcp443", "proxy"}
WEB = "http://web.corp.example/"


def curl(lab, host, url, *options):
    """(exit code, what was printed)"""
    result = subprocess.run(["ip", "netns", "exec", lab.network.namespace(host), "curl", "-sS", "--max-time", "15",
                             *options, url], text=True, capture_output=True, timeout=60)
    return result.returncode, (result.stdout + result.stderr).strip()


def check(condition, text):
    if not condition:
        raise LabError(text)


def reaches(lab, host, url, server, *options):
    code, text = curl(lab, host, url, *options)
    check(code == 0 and text.startswith(f"server={server} "), f"{host} {url} {' '.join(options)}: {text}")
    return text.split("remote=")[1]


def peer(lab, client):
    peers = (lab.penstock.ctl(client, "show", "peers", check=False) or {}).get("peers", [])
    return next((p for p in peers if p.get("session") == "up"), {})


def everything_by_name(lab):
    """names over both families, and the path that such a network allows"""
    for name in ("web4", "web6", "web"):
        for family in ("-4", "-6"):
            reaches(lab, "client", f"http://{name}.corp.example/", name, family)
    wanted = "relayed" if RELAYED & set(lab.settings["parts"]) else "direct"
    wait_until(lambda: peer(lab, "client").get("path") == wanted, 15, f"{wanted} path")


def download_through_a_reset(lab):
    """a download goes on while every NAT on the client's side forgets"""
    _, expected = lab.services.big_file()
    target = lab.directory / "downloaded"
    download = subprocess.Popen(
        ["ip", "netns", "exec", lab.network.namespace("client"), "curl", "-sS", "--limit-rate", "8M", "-o", str(target),
         f"{WEB}big"], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        for megabytes in (8, 24):
            wait_until(lambda m=megabytes: target.exists() and target.stat().st_size > m * 1_000_000, 40,
                       f"{megabytes} MB of the download")
            lab.nat_reset("client")
        errors, _ = download.communicate(timeout=120)
    finally:
        if download.poll() is None:
            download.kill()
            download.communicate()
    check(download.returncode == 0, f"download broke: {errors.strip()}")
    check(hashlib.sha256(target.read_bytes()).hexdigest() == expected, "checksum differs")
    target.unlink()


def users_have_their_own_rights(lab):
    """a guest behind the same NAT reaches the printer and nothing else; neither disturbs the other"""
    reaches(lab, "client", WEB, "web")
    check(reaches(lab, "client2", f"http://{net.ADDRESS4}/", "address") == net.LAN_GW4, "not by the gateway")
    reaches(lab, "client2", f"http://[{net.ADDRESS6}]/", "address")
    code, text = curl(lab, "client2", WEB)
    check(code == 6, f"a guest resolves a name under a Resource that no policy gives to guests: {text}")
    code, text = curl(lab, "client2", f"http://{net.CIDR_HOST4}/", "--connect-timeout", "3")
    check(code != 0, f"a guest reaches a Resource that no policy gives to guests: {text}")
    one, two = peer(lab, "client"), peer(lab, "client2")
    check(one and two, f"sessions: {one} {two}")
    addresses = [set(p["tunnel_addresses"]) for p in lab.penstock.ctl("dataplane", "show", "peers")["peers"]]
    check(len(addresses) == 2 and not addresses[0] & addresses[1], f"tunnel addresses: {addresses}")


def both_at_once(lab):
    """two clients behind one address, both busy, each gets its own answers through a reset of that NAT (trap:
    paths-1)"""
    flows = [subprocess.Popen(["ip", "netns", "exec", lab.network.namespace(host), "ping", "-n", "-i", "0.05", "-c",
                               "120", "-W", "2", address], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
             for host, address in (("client", "web.corp.example"), ("client2", net.ADDRESS4))]
    time.sleep(2)  # in the middle of six seconds of pings
    lab.nat_reset("client")
    for process in flows:
        text, _ = process.communicate(timeout=60)
        check("120 packets transmitted, 120 received" in text, f"pings lost: {text.strip().splitlines()[-2:]}")


def rejected_after_a_reset(lab):
    """the gateway's NAT rejects what it has forgotten: the client takes the ICMP errors for hints, and loses nothing"""
    lab.network.inside("client", "ping", "-n", "-c", "2", "-W", "2", net.ADDRESS4)  # the tunnel is there
    wait_until(lambda: peer(lab, "client").get("path") == "direct", 15, "direct path")
    flow = subprocess.Popen(["ip", "netns", "exec", lab.network.namespace("client"), "ping", "-n", "-i", "0.05",
                             "-c", "160", "-W", "2", net.ADDRESS4],
                            text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    for _ in range(3):
        time.sleep(2)  # in the middle of eight seconds of pings; hints count every two seconds
        lab.nat_reset("gateway")
    text, _ = flow.communicate(timeout=60)
    check("160 packets transmitted, 160 received" in text, f"pings lost: {text.strip().splitlines()[-2:]}")
    lines = {line["key"]: line["value"] for line in lab.penstock.ctl("client", "status")["lines"]}
    told, believed = lines["datagrams received"], lines["network errors"]
    check(not believed.startswith("0 believed"), f"no error was believed: {believed}; {told}")
    check(lab.processes.alive("client"), "the client ended")


def captive_portal_at_first(lab):
    """a captive portal holds everything back at first; once it opens, the client gets in by itself"""
    access.close_captive_portal(lab.network)
    lab.penstock.start("client")
    time.sleep(12)  # attempts fail and back off
    check(lab.processes.alive("client"), "the client gave up")
    state = lab.penstock.state("client")
    check(state not in (None, "ready"), f"state of the client behind a closed captive portal: {state}")
    access.open_captive_portal(lab.network)
    lab.penstock.wait_ready("client", 30)
    everything_by_name(lab)


CASES = (
    ("several users behind one NAT", ("client2",), "preserving", (users_have_their_own_rights, both_at_once)),
    ("several users behind one random NAT", ("client2",), "random", (users_have_their_own_rights, both_at_once)),
    ("carrier-grade NAT over 100.64.0.0/10", ("cgnat",), "preserving", (everything_by_name, download_through_a_reset)),
    ("IPv6 alone, with NAT64 and DNS64", ("ipv6only",), "preserving", (everything_by_name, download_through_a_reset)),
    ("nothing but TCP to port 443", ("tcp443",), "preserving", (everything_by_name, download_through_a_reset)),
    ("nothing but an HTTP proxy", ("proxy",), "preserving", (everything_by_name, download_through_a_reset)),
    ("DS-Lite", ("dslite",), "preserving", (everything_by_name, download_through_a_reset)),
    ("a NAT that rejects what it does not know", (), "preserving", (rejected_after_a_reset,), "reject"),
    ("captive portal", (), "preserving", (captive_portal_at_first,)),
    ("a client with an address of 100.64.0.0/10", ("mobile",), "preserving",
     (everything_by_name, download_through_a_reset)),
)


def report(name, action):
    """Runs one test; prints its line. True when it passed."""
    started = time.monotonic()
    try:
        action()
    except (LabError, subprocess.TimeoutExpired) as error:
        print(f"FAIL {name}: {' | '.join(str(error).splitlines())}", flush=True)
        return False
    print(f"PASS {name}  ({time.monotonic() - started:.1f} s)", flush=True)
    return True


def run_case(title, parts, client_nat, tests, unexpected="drop"):
    lab = Lab.anew(NAME)
    good = True
    try:
        good = report(f"{title}: up", lambda: lab.up(
            client_nat, unexpected=unexpected, build=BUILD, parts=parts,
            without=("client",) if tests[0] is captive_portal_at_first else ()))
        for test in tests if good else ():
            good &= report(f"{title}: {test.__doc__.splitlines()[0]}", lambda t=test: t(lab))
    finally:
        if lab.settings:
            if not good:
                lab.save_logs()
                for process in ("portal", "dataplane", "gateway", *("client", "client2")):
                    print(f"--- {process}\n{lab.processes.tail(process, 25)}")
            lab.down()
    return good


def main():
    wanted = sys.argv[1:]
    results = [run_case(*case) for case in CASES if not wanted or any(word in case[0] for word in wanted)]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
