#!/usr/bin/python3
"""The demonstration: seven steps through the whole system, each with what happened and how long it took."""

import argparse
import hashlib
import ipaddress
import re
import statistics
import subprocess
import sys
import time

from penstock_lab import nat
from penstock_lab import topology as net
from penstock_lab.lab import DRIVERS, Lab
from penstock_lab.topology import LabError

POOL4 = ipaddress.ip_network("100.96.0.0/11")
POOL6 = ipaddress.ip_network("fd00:2021:1111:8000::/107")
NAMES = ("web4.corp.example", "web6.corp.example", "web.corp.example")
RESOLVER = "100.100.111.1"


def check(condition, text):
    if not condition:
        raise LabError(text)


class Demo:
    def __init__(self, lab, out=sys.stdout):
        self.lab = lab
        self.out = out

    def say(self, text):
        print(f"      {text}", file=self.out, flush=True)

    def client(self, *command, timeout=60):
        """A command on the client's machine: (exit code, output, seconds)."""
        started = time.monotonic()
        result = subprocess.run(["ip", "netns", "exec", self.lab.network.namespace("client"), *command],
                                text=True, capture_output=True, timeout=timeout)
        return result.returncode, result.stdout + result.stderr, time.monotonic() - started

    def dig(self, name, kind):
        """(addresses, milliseconds) as the client's resolver answers."""
        _, text, _ = self.client("dig", "-u", f"@{RESOLVER}", name, kind, "+tries=1", "+time=3")
        answers = re.findall(rf"^\S+\s+\d+\s+IN\s+{kind}\s+(\S+)", text, re.M)
        took = re.search(r"Query time: (\d+) usec", text)
        check(took, f"no answer for {name} {kind}:\n{text}")
        return answers, int(took.group(1)) / 1000

    def curl(self, url, *options):
        code, text, seconds = self.client("curl", "-sS", "--max-time", "20", *options, url)
        check(code == 0, f"curl {' '.join(options)} {url}: {text.strip()}")
        return text, seconds

    # ---- the steps ----

    def names_at_once(self):
        """names are answered at once, and nothing goes to the gateway yet"""
        for name in NAMES:
            four, _ = self.dig(name, "A")
            six, _ = self.dig(name, "AAAA")
            check(len(four) == 1 and ipaddress.ip_address(four[0]) in POOL4, f"{name}: A {four}")
            check(len(six) == 1 and ipaddress.ip_address(six[0]) in POOL6, f"{name}: AAAA {six}")
            self.say(f"{name:20} A {four[0]:15} AAAA {six[0]}")
        times = [self.dig(NAMES[i % 3], "A" if i % 2 else "AAAA")[1] for i in range(20)]
        self.say(f"20 queries: median {statistics.median(times):.2f} ms, maximum {max(times):.2f} ms")
        check(statistics.median(times) < 5, "median is not under 5 ms")
        packets = nat.packets_to_gateway(self.lab.network)
        self.say(f"packets towards the gateway so far: {packets}")
        check(packets == 0, "a tunnel was started by a DNS query")

    def six_requests(self):
        """three web servers over IPv4 and IPv6, whatever family they have"""
        first = True
        for name, kind in (("web4", "IPv4-only"), ("web6", "IPv6-only"), ("web", "both")):
            for family in ("-4", "-6"):
                text, _ = self.curl(f"http://{name}.corp.example/", family, "-w", "%{time_starttransfer}")
                body, seconds = text.strip().rsplit("\n", 1)
                check(body.startswith(f"server={name} "), f"{name} {family}: {body}")
                remote = ipaddress.ip_address(body.split("remote=")[1])
                translated = "" if f"-{remote.version}" == family else f"   translated {family[1]} -> {remote.version}"
                note = f"   first packet to first byte {float(seconds) * 1000:.0f} ms" if first else ""
                self.say(f"curl {family} {name:5} ({kind:9}) from {remote}{translated}{note}")
                expected = {"web4": 4, "web6": 6, "web": int(family[1])}[name]
                check(remote.version == expected, f"{name} {family} came over IPv{remote.version}")
                first = False

    def download(self):
        """a 50 MB download, checksum compared"""
        path, expected = self.lab.services.big_file()
        target = self.lab.directory / "downloaded"
        _, seconds = self.curl("http://web.corp.example/big", "-o", str(target), "--max-time", "300")
        got = hashlib.sha256(target.read_bytes()).hexdigest()
        check(got == expected, "checksum differs")
        size = path.stat().st_size
        target.unlink()
        self.say(f"{size / 1e6:.0f} MB in {seconds:.1f} s ({size * 8 / seconds / 1e6:.0f} Mbit/s), SHA-256 equal")

    def nat_forgets(self):
        """the gateway's NAT forgets every mapping under a running ping"""
        count, reset_at = 200, 5.0
        before = self._dns_queries()
        ping = subprocess.Popen(
            ["ip", "netns", "exec", self.lab.network.namespace("client"), "ping", "-n", "-D", "-i", "0.1", "-c",
             str(count), "-W", "2", "web.corp.example"], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        time.sleep(reset_at)
        asked_first = self._dns_queries()
        self.lab.nat_reset("gateway")
        text, _ = ping.communicate(timeout=120)
        arrivals = [(float(t), int(n)) for t, n in re.findall(r"^\[(\d+\.\d+)\] .* icmp_seq=(\d+) .*time=", text, re.M)]
        check(arrivals, f"no answer at all:\n{text}")
        received = {n for _, n in arrivals}
        gap = max((b - a for (a, _), (b, _) in zip(arrivals, arrivals[1:])), default=0)
        self.say(f"{count} pings at 10/s: {count - len(received)} lost, longest gap {gap:.2f} s, "
                 f"{self._dns_queries() - asked_first} DNS queries since the reset")
        check(asked_first > before, "the ping did not ask the stub resolver")
        check(self._dns_queries() == asked_first, "healing needed a DNS query")
        check(max(received) >= count - 20, "the ping did not come back")

    def _dns_queries(self):
        text = self.lab.network.inside("client", "nft", "list", "counter", "inet", "penstock_demo", "dns", capture=True)
        words = text.split()
        return int(words[words.index("packets") + 1])

    def count_dns_queries(self):
        self.lab.network.inside("client", "nft", "-f", "-", text_input="""
table inet penstock_demo {
  counter dns {}
  chain out { type filter hook output priority filter; udp dport 53 counter name dns; tcp dport 53 counter name dns; }
}
""")

    def outside_and_forbidden(self):
        """a name outside every Resource stays outside; a forbidden Resource says so at once"""
        addresses, _ = self.dig("www.public.example", "A")
        check(addresses == [net.PUBLIC_WEB], f"www.public.example: {addresses}")
        text, _ = self.curl("http://www.public.example/")
        check(f"server=public remote={net.CNAT_WAN}" in text, text)
        self.say(f"www.public.example is {addresses[0]}; the server saw {net.CNAT_WAN}, the client's own NAT")
        code, text, seconds = self.client("ping", "-n", "-c", "1", "-W", "5", net.FORBIDDEN4)
        line = next((l for l in text.splitlines() if "filtered" in l.lower() or "prohibited" in l.lower()), "")
        check(code != 0 and line, f"no ICMP error for a forbidden Resource:\n{text}")
        self.say(f"{net.FORBIDDEN4}: \"{line.strip()}\" after {seconds * 1000:.0f} ms")
        check(seconds < 2, "that was not at once")

    def by_address(self):
        """a CIDR Resource and address Resources, reached by address"""
        for url, server, remote in ((f"http://{net.CIDR_HOST4}/", "cidr", net.LAN_GW4),
                                    (f"http://{net.ADDRESS4}/", "address", net.LAN_GW4),
                                    (f"http://[{net.ADDRESS6}]/", "address", net.LAN_GW6)):
            text, seconds = self.curl(url)
            check(text.strip() == f"server={server} remote={remote}", f"{url}: {text.strip()}")
            self.say(f"{url:28} {text.strip()}   {seconds * 1000:.0f} ms")

    def tables(self):
        """what the gateway sees"""
        for what in ("peers", "flows", "drops"):
            text = self.lab.penstock.ctl("dataplane", "show", what, as_json=False)
            check(text.strip(), f"penstockctl show {what} printed nothing")
            self.say(f"penstockctl show {what}")
            for line in text.rstrip().splitlines()[:14]:
                self.say(f"  {line}")

    STEPS = (names_at_once, six_requests, download, nat_forgets, outside_and_forbidden, by_address, tables)

    def run(self):
        self.count_dns_queries()
        for number, step in enumerate(self.STEPS, 1):
            print(f"[{number}/7] {step.__doc__}", file=self.out, flush=True)
            started = time.monotonic()
            try:
                step(self)
            except (LabError, subprocess.TimeoutExpired) as error:
                raise LabError(f"step {number} ({step.__doc__}): {error}") from None
            print(f"      done in {time.monotonic() - started:.1f} s", file=self.out, flush=True)


def main():
    options = argparse.ArgumentParser(prog="scripts/demo")
    options.add_argument("--driver", choices=DRIVERS, default="af_packet")
    options.add_argument("--nat", metavar="KIND", default="preserving")
    options.add_argument("--unexpected", choices=nat.UNEXPECTED, default="drop")
    options.add_argument("--build")
    options.add_argument("--name", default="demo")
    options.add_argument("--keep", action="store_true", help="leave the lab running")
    arguments = options.parse_args()
    lab = None
    try:
        lab = Lab(arguments.name)
        started = time.monotonic()
        lab.up(arguments.nat, arguments.nat, arguments.unexpected, arguments.driver, arguments.build)
        print(f"lab is up after {time.monotonic() - started:.1f} s: {arguments.driver}, both NATs {arguments.nat}, "
              f"unexpected packets: {arguments.unexpected}", flush=True)
        Demo(lab).run()
    except LabError as error:
        print(f"demo: failed: {error}", file=sys.stderr)
        if lab is not None and lab.settings:
            lab.save_logs()
        return 1
    finally:
        if lab is not None and lab.settings and lab.network.exists() and not arguments.keep:
            stubborn = lab.down()
            if stubborn:
                print(f"demo: had to be killed: {' '.join(stubborn)}", file=sys.stderr)
    if arguments.keep:
        print(f"the lab is still up: scripts/lab --name {arguments.name} status | exec | ctl | down")
    print("demo: ok")
    return 0


if __name__ == "__main__":
    sys.exit(main())
