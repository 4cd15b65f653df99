#!/usr/bin/python3
"""Debian's wireguard-go as a client of the data plane, configured by `static:` alone, through every translation.

    peer (wireguard-go) --- 198.51.100.0/24 --- gw (penstock-dataplane) --- 203.0.113.0/24, 2001:db8:1a::/64 --- lan

A run of 130 s, in which a real session is renewed, goes on beside the others.
"""

import contextlib
import json
import os
import statistics
import subprocess
import time

from netns import DataPlane, Failure, Network, build_directory, main, run, wait_until

GATEWAY = "198.51.100.1:51820"
TUNNEL4, TUNNEL6 = "100.64.0.2", "fd00:2021:1111::2"
LAN4, LAN6 = "203.0.113.80", "2001:db8:1a::80"
ONLY4, ONLY6 = ("100.96.0.1", "fd00:2021:1111:8000::1"), ("100.96.0.2", "fd00:2021:1111:8000::2")

# Says to everybody from which address and port they came; on TCP it also takes and gives bulk data.
ECHO = """
import socket, threading, sys
def serve(family, address):
    udp = socket.socket(family, socket.SOCK_DGRAM)
    udp.bind((address, 7000))
    def answer():
        while True:
            data, peer = udp.recvfrom(65536)
            udp.sendto(f"{peer[0]} {peer[1]} ".encode() + data, peer)
    threading.Thread(target=answer, daemon=True).start()
    tcp = socket.create_server((address, 7000), family=family)
    def accept():
        while True:
            connection, peer = tcp.accept()
            connection.sendall(f"{peer[0]} {peer[1]}".encode())
            connection.close()
    threading.Thread(target=accept, daemon=True).start()
serve(socket.AF_INET, "203.0.113.80")
serve(socket.AF_INET6, "2001:db8:1a::80")
print("serving", flush=True)
threading.Event().wait()
"""


def key_pair():
    private = run("wg", "genkey").stdout.strip()
    public = subprocess.run(["wg", "pubkey"], input=private, text=True, capture_output=True, check=True).stdout.strip()
    return private, public


class Setup:
    """The three hosts with everything running."""

    def __init__(self, workers=1, driver="af_packet", client_secret=None, peer_extra=""):
        self.stack = contextlib.ExitStack()
        self.net = net = self.stack.enter_context(Network("peer", "gw", "lan"))
        try:
            net.wire("peer", "wan0", "gw", "gw-wan")
            net.wire("lan", "lan0", "gw", "gw-lan")
            net.up("peer", "wan0", "198.51.100.130/24")
            net.up("lan", "lan0", f"{LAN4}/24", f"{LAN6}/64")
            net.up_without_kernel("gw", "gw-wan")
            net.up_without_kernel("gw", "gw-lan")
            private, public = key_pair()
            secret = run("wg", "genpsk").stdout.strip()
            secret_file = self.secret_file("psk", secret)
            self.plane = DataPlane(net, "gw", f"""
private_key_file: {net.directory}/key
control: {{socket: {net.directory}/dataplane.sock}}
tunnel: {{port: wan}}
dpdk: {{hugepages: false, memory_mb: 256}}
workers: {{count: {workers}}}
ports:
  - {{name: wan, device: "net_{driver}0,iface=gw-wan", addresses: [198.51.100.1/24]}}
  - {{name: lan, device: "net_{driver}1,iface=gw-lan", addresses: [203.0.113.1/24, "2001:db8:1a::1/64"]}}
static:
  peers:
    - public_key: "{public}"
      preshared_key_file: {secret_file}
      tunnel_addresses: [{TUNNEL4}, "{TUNNEL6}"]
      {peer_extra}
      authorisations:
        - {{resource: lan4, cidr: 203.0.113.0/26}}
        - {{resource: lan4, cidr: 203.0.113.64/26}}
        - {{resource: lan6, cidr: "2001:db8:1a::/64"}}
        - {{resource: web, address: 203.0.113.200, tcp: [80]}}
        - {{resource: corp, dns: "**.corp.example"}}
      translations:
        - {{resource: corp, name: only4.corp.example, proxy_v4: {ONLY4[0]}, proxy_v6: "{ONLY4[1]}",
            addresses: [{LAN4}]}}
        - {{resource: corp, name: only6.corp.example, proxy_v4: {ONLY6[0]}, proxy_v6: "{ONLY6[1]}",
            addresses: ["{LAN6}"]}}
""", mount_bpf=driver == "af_xdp")
            self.interface = f"wg{os.getpid()}"
            net.start("peer", "wireguard-go", "env", "LOG_LEVEL=verbose", "wireguard-go", "-f", self.interface)
            wait_until(lambda: net.inside("peer", "wg", "show", self.interface, check=False).returncode == 0, 5,
                       "wireguard-go")
            settings = net.directory / "wg.conf"
            settings.write_text(f"""[Interface]
PrivateKey = {private}
ListenPort = 40000
[Peer]
PublicKey = {self.plane.public_key()}
PresharedKey = {client_secret or secret}
Endpoint = {GATEWAY}
AllowedIPs = 0.0.0.0/0, ::/0
""")
            net.inside("peer", "wg", "setconf", self.interface, str(settings))
            net.up("peer", self.interface, f"{TUNNEL4}/32", f"{TUNNEL6}/128")
            net.ip("peer", "link", "set", self.interface, "mtu", "1280")
            for route in ("203.0.113.0/24", "100.96.0.0/11", "2001:db8:1a::/64", "fd00:2021:1111:8000::/107"):
                net.ip("peer", "route", "add", route, "dev", self.interface)
            net.start("lan", "echo", "/usr/bin/python3", "-c", ECHO)
            wait_until(lambda: "serving" in net.log("echo"), 5, "echo server")
        except BaseException:
            self.stack.close()
            raise

    def secret_file(self, name, secret):
        file = self.net.directory / name
        file.touch(mode=0o600)
        file.write_text(secret + "\n")
        return file

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stack.close()

    def seen_from(self, address, protocol="tcp"):
        """The address under which the LAN's server sees us when we speak to `address`."""
        kind = "SOCK_STREAM" if protocol == "tcp" else "SOCK_DGRAM"
        result = self.net.inside("peer", "/usr/bin/python3", "-c", f"""
import socket
family = socket.AF_INET6 if ":" in "{address}" else socket.AF_INET
s = socket.socket(family, socket.{kind})
s.settimeout(5)
s.connect(("{address}", 7000))
if "{protocol}" == "udp": s.send(b"hello")
print(s.recv(1000).decode())
""", check=False)
        if result.returncode != 0:
            raise Failure(f"{protocol} to {address}: {result.stdout.strip()}\n{self.net.log('dataplane')}")
        return result.stdout.split()[0]

    def ping_after_change(self):
        """Pings LAN4. The one packet that tells the gateway of the change may lose its answer: where the LAN answers
        within the time a thread takes to wake up, the answer still goes the old way."""
        result = self.net.inside("peer", "ping", "-n", "-c", "5", "-i", "0.05", "-W", "2", LAN4, check=False)
        if result.stdout.count("time=") < 4:
            raise Failure(f"ping {LAN4}:\n{result.stdout.strip()}")

    def transfer(self):
        received, sent = self.net.inside("peer", "wg", "show", self.interface, "transfer").stdout.split()[1:3]
        return int(received), int(sent)

    def latest_handshake(self):
        return int(self.net.inside("peer", "wg", "show", self.interface, "latest-handshakes").stdout.split()[1])


def first_light():
    """Handshake with preshared key, then a ping of a LAN host through NAT44, and the rest of the translations."""
    with Setup() as setup:
        before = time.monotonic()
        first = setup.net.ping("peer", LAN4, count=1)[0]
        times = setup.net.ping("peer", LAN4, count=20, interval=0.02)
        for address, source, what in ((LAN4, "203.0.113.1", "nat44"), (LAN6, "2001:db8:1a::1", "nat66"),
                                      (ONLY4[0], "203.0.113.1", "nat44 by name"), (ONLY4[1], "203.0.113.1", "nat64"),
                                      (ONLY6[0], "2001:db8:1a::1", "nat46"), (ONLY6[1], "2001:db8:1a::1", "nat66")):
            setup.net.ping("peer", address)
            for protocol in ("tcp", "udp"):
                seen = setup.seen_from(address, protocol)
                if seen != source:
                    raise Failure(f"{what}: the server saw {seen} instead of {source} over {protocol}")
        if not setup.latest_handshake():
            raise Failure("no handshake took place")
        # Large packets in both directions, up to the tunnel's MTU exactly.
        setup.net.ping("peer", LAN4, "-s", str(1280 - 28), "-M", "do")
        setup.net.ping("peer", LAN6, "-s", str(1280 - 48), "-M", "do")
        setup.plane.stop()
        return f"first ping {first:.1f} ms, then median {statistics.median(times):.2f} ms"


def over_af_xdp():
    with Setup(driver="af_xdp") as setup:
        setup.net.ping("peer", LAN4)
        setup.seen_from(ONLY4[1])
        setup.plane.stop()


def with_two_workers():
    """Flows whose packets arrive at the other worker are handed over."""
    with Setup(workers=2) as setup:
        for _ in range(10):
            setup.seen_from(LAN4)
            setup.seen_from(ONLY4[1], "udp")
            setup.seen_from(ONLY6[0])
        setup.plane.stop()


def policy_answers_at_once():
    """trap: nat-10 — what the policy refuses is refused by ICMP, not by silence."""
    with Setup() as setup:
        setup.net.ping("peer", LAN4)
        for address, port in (("203.0.113.200", 81), ("203.0.113.130", 80)):
            result = setup.net.inside("peer", "/usr/bin/python3", "-c", f"""
import socket, time
before = time.monotonic()
try:
    connection = socket.create_connection(("{address}", {port}), 5)
    print("connected", connection.getsockname(), connection.getpeername())  # who has no peer is not connected
except OSError as error:
    print(error.errno, time.monotonic() - before)
""").stdout.split()
            if result[0] == "connected" or float(result[1]) > 1:
                raise Failure(f"{address} port {port}: {' '.join(result)}")
        setup.plane.stop()


def wrong_preshared_key_gets_nothing():
    with Setup(client_secret=run("wg", "genpsk").stdout.strip()) as setup:
        if setup.net.inside("peer", "ping", "-c", "2", "-i", "0.2", "-W", "1", LAN4, check=False).returncode == 0:
            raise Failure("a wrong preshared key was good enough")
        if setup.latest_handshake():
            raise Failure("a handshake was completed with a wrong preshared key")
        setup.plane.stop()


FLOOD = """
import base64, hashlib, os, socket, struct, sys, time
server = base64.b64decode(sys.argv[1])
mac1_key = hashlib.blake2s(b"mac1----" + server).digest()
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
print("flooding", flush=True)
end = time.monotonic() + 60
while time.monotonic() < end:
    message = struct.pack("<II", 1, 7) + os.urandom(108)
    mac1 = hashlib.blake2s(message, key=mac1_key, digest_size=16).digest()
    s.sendto(message + mac1 + bytes(16), ("198.51.100.1", 51820))
    time.sleep(0.0005)
"""


def cookie_under_load():
    """While its address floods us with initiations whose mac1 is right, wireguard-go gets in by showing a cookie."""
    with Setup() as setup:
        setup.net.start("peer", "flood", "/usr/bin/python3", "-c", FLOOD, setup.plane.public_key())
        wait_until(lambda: "flooding" in setup.net.log("flood"), 5, "flood")

        def asked_for_cookies():
            shown = run(str(build_directory() / "controlplane" / "ctl" / "penstockctl"), "--socket",
                        str(setup.net.directory / "dataplane.sock"), "show", "drops", "--json").stdout
            return any(row["reason"] == "wg_mac2_required" and int(row.get("packets", 0)) > 20
                       for row in json.loads(shown)["drops"])
        wait_until(asked_for_cookies, 5, "the data plane to ask for cookies")
        # An initiation may find the one token that the flood left over; then there is no cookie in it, and we try
        # again.
        for _ in range(10):
            before = time.monotonic()
            wait_until(lambda: setup.net.inside("peer", "ping", "-c", "1", "-W", "1", LAN4,
                                                check=False).returncode == 0,
                       20, "a handshake under load")
            if "cookie response" in setup.net.log("wireguard-go"):
                setup.plane.stop()
                return f"in with a cookie after {time.monotonic() - before:.1f} s"
            setup.net.inside("peer", "wg", "set", setup.interface, "peer", setup.plane.public_key(), "remove")
            setup.net.inside("peer", "wg", "setconf", setup.interface, str(setup.net.directory / "wg.conf"))
        raise Failure("wireguard-go was never asked for a cookie")


def keepalive_in_both_directions():
    """The data plane's persistent keepalive reaches the client while no data flows, and the client's it."""
    with Setup(peer_extra="persistent_keepalive: 1s") as setup:
        setup.net.ping("peer", LAN4, count=1)
        setup.net.inside("peer", "wg", "set", setup.interface, "peer", setup.plane.public_key(),
                         "persistent-keepalive", "1")
        start = setup.transfer()
        # A keepalive is 32 bytes.
        wait_until(lambda: all(now - then >= 3 * 32 for now, then in zip(setup.transfer(), start)), 8,
                   "three keepalives each way")
        setup.plane.stop()


def roaming():
    """The client's source port and then its address change; the next packet is answered there."""
    with Setup() as setup:
        setup.net.ping("peer", LAN4)
        handshake = setup.latest_handshake()
        setup.net.inside("peer", "wg", "set", setup.interface, "listen-port", "40001")
        setup.ping_after_change()
        setup.net.ip("peer", "address", "add", "198.51.100.131/24", "dev", "wan0")
        setup.net.ip("peer", "address", "del", "198.51.100.130/24", "dev", "wan0")
        # Deleting the primary address takes others of its subnet along where promote_secondaries is off.
        addresses = setup.net.ip("peer", "address", "show", "dev", "wan0").stdout
        if "198.51.100.131" not in addresses:
            setup.net.ip("peer", "address", "add", "198.51.100.131/24", "dev", "wan0")
        # wireguard-go keeps to its old source address until it is given the endpoint anew.
        setup.net.inside("peer", "wg", "set", setup.interface, "peer", setup.plane.public_key(), "endpoint", GATEWAY)
        setup.ping_after_change()
        if setup.latest_handshake() != handshake:
            raise Failure("roaming took a new handshake")
        setup.plane.stop()


def client_restarts():
    """A new process with the same key is served at once, although the old session was alive."""
    with Setup() as setup:
        setup.net.ping("peer", LAN4)
        setup.net.inside("peer", "wg", "set", setup.interface, "peer", setup.plane.public_key(), "remove")
        settings = setup.net.directory / "wg.conf"
        setup.net.inside("peer", "wg", "setconf", setup.interface, str(settings))
        setup.ping_after_change()
        setup.plane.stop()


def lan_speaks_into_a_live_flow():
    """UDP answers come back after a pause; strangers do not get in."""
    with Setup() as setup:
        setup.net.ping("peer", LAN4, count=1)
        result = setup.net.inside("lan", "/usr/bin/python3", "-c", """
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(0.5)
for port in (1024, 40000, 51820): s.sendto(b"x", ("203.0.113.1", port))
try:
    print(s.recv(100))
except (TimeoutError, ConnectionRefusedError):
    print("nothing")
""").stdout.strip()
        if result != "nothing":
            raise Failure(f"a stranger in the LAN was answered: {result}")
        setup.plane.stop()


def bulk():
    """TCP both ways and UDP, through NAT44 and NAT64."""
    with Setup() as setup:
        setup.net.start("lan", "iperf3", "iperf3", "-s")
        setup.net.ping("peer", LAN4)
        rates = []
        for address, options in ((LAN4, []), (LAN4, ["-R"]), (ONLY4[1], []), (ONLY4[1], ["-R"])):
            def attempt():
                result = setup.net.inside("peer", "iperf3", "-J", "-c", address, "-t", "2", *options, check=False)
                report = json.loads(result.stdout)
                return report if "error" not in report else None
            report = wait_until(attempt, 10, f"iperf3 to {address}")
            rates.append(report["end"]["sum_received"]["bits_per_second"] / 1e6)
            if rates[-1] < 20:
                raise Failure(f"{address} {options}: only {rates[-1]:.1f} Mbit/s")
        setup.plane.stop()
        return "Mbit/s: " + ", ".join(f"{rate:.0f}" for rate in rates) + " (nat44 up, down, nat64 up, down)"


def rekey_after_two_minutes():
    """wireguard-go renews the session after 120 s; not a ping is lost."""
    with Setup() as setup:
        setup.net.ping("peer", LAN4, count=1)
        first = setup.latest_handshake()
        setup.net.ping("peer", LAN4, count=260, interval=0.5)
        if setup.latest_handshake() <= first:
            raise Failure("no new handshake within 130 s")
        setup.plane.stop()


if __name__ == "__main__":
    main([first_light, over_af_xdp, with_two_workers, policy_answers_at_once, wrong_preshared_key_gets_nothing,
          cookie_under_load, keepalive_in_both_directions, roaming, client_restarts, lan_speaks_into_a_live_flow, bulk],
         background=[rekey_after_two_minutes])
