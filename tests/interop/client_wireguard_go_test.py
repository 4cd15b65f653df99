#!/usr/bin/python3
"""penstock-client with a gateway given by file: Debian's wireguard-go, with the kernel's routing behind it.

    client --(198.51.100.0/24)-- gw --(203.0.113.0/24, 2001:db8:1a::/64)-- lan

Needs root. What it proves: standard WireGuard is interoperable, names and routes appear and vanish as they should, and
nothing is left behind by a clean exit, nor for longer than the next start by a crash.
"""

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess

from netns import Failure, Network, build_directory, main, run, wait_until

GATEWAY = "198.51.100.40"
CLIENT = "198.51.100.10"
WEB4, WEB6 = "203.0.113.80", "2001:db8:1a::80"
TUNNEL4, TUNNEL6 = "100.64.0.2", "fd00:2021:1111::2"
RESOLVER4, RESOLVER6 = "100.100.111.1", "fd00:2021:1111:8000:100:100:111:1"
TABLE = "28787"
ORIGINAL = f"nameserver {GATEWAY}\nsearch example\n"


def check(condition, text):
    if not condition:
        raise Failure(text)


class Lab(Network):
    def __init__(self):
        super().__init__("client", "gw", "lan")
        self.etc = None
        self.client = None
        self.starts = 0

    def __enter__(self):
        super().__enter__()
        try:
            self._wires()
            self._resolv_conf()
            self._gateway()
            self._servers()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *details):
        super().__exit__(*details)
        if self.etc:
            shutil.rmtree(self.etc, ignore_errors=True)

    def _wires(self):
        self.wire("client", "c-wan", "gw", "g-wan")
        self.wire("gw", "g-lan", "lan", "l-lan")
        self.up("client", "c-wan", f"{CLIENT}/24", "2001:db8:c::10/64")
        self.up("gw", "g-wan", f"{GATEWAY}/24", "2001:db8:c::40/64")
        self.up("gw", "g-lan", "203.0.113.1/24", "2001:db8:1a::1/64")
        self.up("lan", "l-lan", f"{WEB4}/24", f"{WEB6}/64")
        self.ip("lan", "route", "add", "default", "via", "203.0.113.1")
        self.ip("lan", "-6", "route", "add", "default", "via", "2001:db8:1a::1")
        self.ip("client", "route", "add", "default", "via", GATEWAY)
        self.inside("gw", "sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")

    def _resolv_conf(self):
        """`ip netns exec` binds this file over /etc/resolv.conf: the machine's own is never in reach."""
        self.etc = pathlib.Path("/etc/netns") / self.name("client")
        self.etc.mkdir(parents=True)
        (self.etc / "resolv.conf").write_text(ORIGINAL)
        seen = self.inside("client", "cat", "/etc/resolv.conf").stdout
        check(seen == ORIGINAL, "the namespace does not have a resolv.conf of its own")

    def _gateway(self):
        def key(name):
            private = run("wg", "genkey").stdout.strip()
            public = subprocess.run(["wg", "pubkey"], input=private, text=True, capture_output=True).stdout.strip()
            path = self.directory / name
            path.write_text(private + "\n")
            path.chmod(0o600)
            return path, public
        gateway_key, self.gateway_public = key("gateway.key")
        self.client_key, client_public = key("client.key")
        self.psk = self.directory / "psk"
        self.psk.write_text(run("wg", "genpsk").stdout)
        self.psk.chmod(0o600)
        device = f"wg{os.getpid()}"
        self.start("gw", "wireguard-go", "wireguard-go", "-f", device)
        wait_until(lambda: self.inside("gw", "wg", "show", device, check=False).returncode == 0, 10, "wireguard-go")
        self.inside("gw", "wg", "set", device, "listen-port", "51820", "private-key", gateway_key, "peer",
                    client_public, "preshared-key", self.psk, "allowed-ips", f"{TUNNEL4}/32,{TUNNEL6}/128")
        self.ip("gw", "link", "set", device, "mtu", "1280", "up")
        self.ip("gw", "route", "add", f"{TUNNEL4}/32", "dev", device)
        self.ip("gw", "-6", "route", "add", f"{TUNNEL6}/128", "dev", device)
        self.device = device

    def _servers(self):
        www = self.directory / "www"
        www.mkdir()
        (www / "big").write_bytes(os.urandom(1 << 20))
        self.start("lan", "www", "/usr/bin/python3", "-m", "http.server", "80", "--bind", "::", "-d", www)
        self.start("gw", "dnsmasq", "dnsmasq", "-k", "--no-resolv", "--no-hosts", "--conf-file=/dev/null",
                   "--listen-address", GATEWAY, "--bind-interfaces", "--pid-file=",
                   "--address=/upstream.example/192.0.2.77", "--user=root")
        wait_until(lambda: self.inside("lan", "curl", "-sfm1", f"http://{WEB4}/", check=False).returncode == 0, 10,
                   "web server")

    # ---- the client ----

    def configure(self, resources, **more):
        gateway = {
            "gateway": {"public_key": self.gateway_public, "preshared_key_file": str(self.psk),
                        "endpoints": [f"{GATEWAY}:51820"]},
            "tunnel_addresses": [TUNNEL4, TUNNEL6],
            "pools": {},
            "resources": resources,
        }
        (self.directory / "gateway.yaml").write_text(json.dumps(gateway))
        config = {
            "control": {"socket": str(self.directory / "client.sock")},
            "state_directory": str(self.directory / "state"),
            "private_key_file": str(self.client_key),
            "tun": {"name": "penstock0", "mtu": 1280},
            "dns": {"mode": "resolv_conf"},
            "gateway_file": str(self.directory / "gateway.yaml"),
            **more,
        }
        (self.directory / "client.yaml").write_text(json.dumps(config))

    def start_client(self):
        self.starts += 1
        self.log_name = f"client{self.starts}"
        self.client = self.start("client", self.log_name, build_directory() / "controlplane/client/penstock-client",
                                 "--config", self.directory / "client.yaml")

        def ready():
            if self.client.poll() is not None:
                raise Failure(f"the client ended with {self.client.returncode}\n{self.client_log()}")
            return " runs" in self.client_log()
        wait_until(ready, 10, "the client's start")

    def client_log(self):
        return self.log(self.log_name)

    def stop_client(self):
        self.client.send_signal(signal.SIGTERM)
        try:
            code = self.client.wait(5)
        except subprocess.TimeoutExpired:
            raise Failure(f"the client does not end on SIGTERM\n{self.client_log()}") from None
        check(code == 0, f"the client ended with {code}\n{self.client_log()}")

    def crash_client(self):
        self.client.send_signal(signal.SIGKILL)
        self.client.wait(5)

    def resolv_conf(self):
        return (self.etc / "resolv.conf").read_text()

    def leftovers(self):
        """Everything of the client's that the namespace still has."""
        found = []
        for family in ("-4", "-6"):
            rules = self.ip("client", family, "rule").stdout
            found += [line for line in rules.splitlines() if TABLE in line]
            routes = self.inside("client", "ip", family, "route", "show", "table", TABLE, check=False).stdout
            found += [line for line in routes.splitlines()
                      if line.strip() and "does not exist" not in line and line != "Dump terminated"]
        if "penstock0" in self.ip("client", "link").stdout:
            found.append("the device")
        if self.resolv_conf() != ORIGINAL:
            found.append("resolv.conf: " + self.resolv_conf())
        return found

    def curl(self, address):
        host = f"[{address}]" if ":" in address else address
        result = self.inside("client", "curl", "-sfm10", "-o", "/dev/null", "-w", "%{size_download}",
                             f"http://{host}/big", check=False)
        check(result.returncode == 0 and result.stdout == str(1 << 20),
              f"curl {address}: exit {result.returncode}, {result.stdout}\n{self.client_log()}")

    def lookup(self, host, name, kind="A", server=RESOLVER4, tcp=False, options=()):
        result = self.inside(host, "dig", f"@{server}", name, kind, "+short", "+time=2", "+tries=1",
                             "+tcp" if tcp else "+notcp", *options, check=False)
        return [] if result.returncode != 0 else result.stdout.split()


LAN = [{"id": "lan4", "kind": "cidr", "prefix": "203.0.113.0/24"},
       {"id": "lan6", "kind": "cidr", "prefix": "2001:db8:1a::/64"}]
NAMES = [{"id": "corp", "kind": "dns", "pattern": "**.corp.example"}]


def packets_go_both_ways():
    with Lab() as lab:
        lab.configure(LAN)
        lab.start_client()
        for address in (WEB4, WEB6):
            lab.ping("client", address, count=20, timeout=5)
            lab.curl(address)
        handshakes = lab.inside("gw", "wg", "show", lab.device, "latest-handshakes").stdout.split()
        check(int(handshakes[1]) > 0, "no handshake at the gateway")
        # The packets really went through the tunnel.
        counters = lab.inside("gw", "wg", "show", lab.device, "transfer").stdout.split()
        check(int(counters[2]) > 2 << 20, f"too few bytes through the tunnel: {counters}")


def streams_arrive_whole():  # trap: io-1, io-2
    with Lab() as lab:
        program = pathlib.Path(__file__).with_name("stream.py")
        lab.start("lan", "stream", "/usr/bin/python3", program, "serve", "::")
        wait_until(lambda: "listening" in lab.log("stream"), 5, "the echo server")
        ctl = build_directory() / "controlplane/ctl/penstockctl"
        for offload in ("auto", "off"):
            lab.configure(LAN, offload=offload)
            lab.start_client()
            for address in (WEB4, WEB6):
                lab.ping("client", address, timeout=5)
                for kind in ("tcp", "udp"):
                    result = lab.inside("client", "/usr/bin/python3", str(program), kind, address, check=False)
                    check(result.stdout.strip() == "whole", f"offload {offload}, {kind} {address}: {result.stdout}")
            status = lab.inside("client", str(ctl), "--socket", str(lab.directory / "client.sock"), "status").stdout
            count = lambda key: int(re.search(key + r"\s+(\d+)", status).group(1))
            taken, given = count("super-packets from applications"), count("packets joined for applications")
            if offload == "off":
                check(taken == given == 0 and re.search(r"offload\s+none", status), f"off is not off:\n{status}")
            else:
                check(taken > 50 and given > 500, f"nothing was handed over in one piece:\n{status}")
            lab.stop_client()


def own_packets_never_enter_the_tunnel():  # trap: io-11
    with Lab() as lab:
        # The Resource contains the gateway's own public address, and another is everything.
        lab.configure(LAN + [{"id": "wide", "kind": "cidr", "prefix": "198.51.100.0/24"},
                             {"id": "all", "kind": "cidr", "prefix": "0.0.0.0/0"}])
        lab.start_client()
        lab.ping("client", WEB4, count=5, timeout=5)
        lab.curl(WEB4)
        check(lab.lookup("client", "upstream.example") == ["192.0.2.77"], "upstream DNS does not go around the tunnel")
        peers = lab.inside("gw", "wg", "show", lab.device, "endpoints").stdout
        check(CLIENT in peers, f"the tunnel does not come from the client's own address: {peers}")


def routes_come_and_go():
    with Lab() as lab:
        lab.configure(LAN + NAMES)
        check(lab.leftovers() == [], "not clean before the start")
        lab.start_client()
        routes4 = lab.ip("client", "route", "show", "table", TABLE).stdout
        routes6 = lab.ip("client", "-6", "route", "show", "table", TABLE).stdout
        for prefix, routes in (("203.0.113.0/24", routes4), ("100.96.0.0/11", routes4),
                               ("2001:db8:1a::/64", routes6), ("fd00:2021:1111:8000::/107", routes6)):
            check(re.search(rf"^{re.escape(prefix)} dev penstock0", routes, re.M), f"no route to {prefix}:\n{routes}")
        check(f"throw {GATEWAY}" in routes4, f"the gateway itself may enter the tunnel:\n{routes4}")
        lab.stop_client()
        check(lab.leftovers() == [], f"left behind: {lab.leftovers()}")


def a_crash_is_cleaned_up_by_the_next_start():
    with Lab() as lab:
        lab.configure(LAN + NAMES)
        lab.start_client()
        before = lab.lookup("client", "web.corp.example")
        check(before and before[0].startswith("100."), f"no proxy address: {before}")
        names = lab.directory / "state" / "names"
        wait_until(lambda: names.exists() and "web.corp.example" in names.read_text(), 5, "the name in the names' file")
        lab.crash_client()
        check(lab.leftovers() != [], "a killed process cannot have cleaned up")
        lab.configure(LAN[:1] + NAMES)
        lab.start_client()
        routes6 = lab.ip("client", "-6", "route", "show", "table", TABLE).stdout
        check("2001:db8:1a::/64" not in routes6, f"a route of the crashed client stands:\n{routes6}")
        for family in ("-4", "-6"):
            rules = [line for line in lab.ip("client", family, "rule").stdout.splitlines() if TABLE in line]
            check(len(rules) == 1, f"rules: {rules}")
        lab.ping("client", WEB4, timeout=5)
        after = lab.lookup("client", "web.corp.example")
        check(after == before, f"the proxy address changed from {before} to {after}")
        check(lab.lookup("client", "upstream.example") == ["192.0.2.77"], "the original resolver is forgotten")
        lab.stop_client()
        check(lab.leftovers() == [], f"left behind: {lab.leftovers()}")


def the_resolver_answers_this_machine_only():
    with Lab() as lab:
        lab.configure(LAN + NAMES)
        lab.start_client()
        v4 = lab.lookup("client", "web.corp.example")
        v6 = lab.lookup("client", "web.corp.example", "AAAA", server=RESOLVER6)
        check(v4 and v4[0].startswith("100."), f"A: {v4}")
        check(v6 and v6[0].startswith("fd00:2021:1111:8000:"), f"AAAA: {v6}")
        check(lab.lookup("client", "WEB.corp.example", tcp=True) == v4, "TCP or case makes a difference")
        check(lab.lookup("client", "upstream.example", tcp=True) == ["192.0.2.77"], "not forwarded")
        for tcp in (False, True):  # whatever source an application binds
            check(lab.lookup("client", "web.corp.example", tcp=tcp, options=("-b", CLIENT)) == v4, "a bound source")
        # The system's own resolver file leads here.
        found = lab.inside("client", "getent", "ahostsv4", "web.corp.example", check=False).stdout
        check(v4[0] in found, f"the system does not use the resolver: {found}\n{lab.resolv_conf()}")
        # The kernel would take queries of the neighbours for these addresses (weak host model).
        for address, family in ((RESOLVER4, ()), (RESOLVER6, ("-6",))):
            via = "2001:db8:c::10" if family else CLIENT
            lab.ip("gw", *family, "route", "add", address, "via", via)
            for tcp in (False, True):
                check(lab.lookup("gw", "web.corp.example", server=address, tcp=tcp) == [],
                      f"the neighbour was answered by {address}, tcp {tcp}")


def wrong_configurations_are_explained():
    with Lab() as lab:
        binary = build_directory() / "controlplane/client/penstock-client"
        lab.configure(LAN)
        file = lab.directory / "client.yaml"
        good = file.read_text()
        check(run(binary, "--config", file, "--check").stdout == "", "a good file is complained about")
        check(re.fullmatch(r"\d+\.\d+\.\d+\n", run(binary, "--version").stdout), "no version")
        cases = [
            ({"tun": {"mtu": 100}}, "client.yaml: tun.mtu: "),
            ({"tun": {"nme": "x"}}, "client.yaml: tun.nme: is not a known key"),
            ({"surprise": 1}, "client.yaml: surprise: is not a known key"),
            ({"dns": {"mode": "magic"}}, "client.yaml: dns.mode: "),
            ({"dns": {"upstreams": ["nonsense"]}}, "client.yaml: dns.upstreams[0]: "),
            ({"gateway_file": "/nonexistent"}, "/nonexistent: "),
            ({"portal": {"address": "198.51.100.10:8443"}}, "client.yaml: gateway_file: "),
        ]
        for change, expected in cases:
            file.write_text(json.dumps({**json.loads(good), **change}))
            result = run(binary, "--config", file, "--check", check=False)
            check(result.returncode == 2 and expected in result.stdout,
                  f"{change}: exit {result.returncode}: {result.stdout}")
        file.write_text("tun: [unclosed")
        check(run(binary, "--config", file, "--check", check=False).returncode == 2, "malformed YAML is accepted")


if __name__ == "__main__":
    main([packets_go_both_ways, streams_arrive_whole, own_packets_never_enter_the_tunnel, routes_come_and_go,
          a_crash_is_cleaned_up_by_the_next_start, the_resolver_answers_this_machine_only,
          wrong_configurations_are_explained])
