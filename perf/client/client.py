#!/usr/bin/python3 -B
"""TCP through the client's TUN device, beside Debian's wireguard-go as the client of the same gateway, in turn.

Two labs, in turn. Ends: the same software at both ends of a veth pair, wireguard-go and wireguard-go, penstock-client
and perf-tun-peer (the client's own I/O as a responder). Gateway: either client before the data plane on af_xdp.

  client: penstock-client or wireguard-go -- 198.51.100.0/24 -- gw: penstock-dataplane -- 203.0.113.0/24 -- lan: iperf3

Everything runs on this machine's cores, so Gbit/s are those of the whole chain; Gbit per second of the client's
processor time is the client's own, with what the kernel does in its name, the far end of a veth pair included."""

import contextlib
import json
import os
import pathlib
import signal
import statistics
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from penstock_perf.bench import BUILD, Clock, Suite  # noqa: E402

from netns import DataPlane, Failure, Network, run, wait_until  # noqa: E402

GATEWAY, CLIENT, SERVER, TUNNEL = "198.51.100.1", "198.51.100.10", "203.0.113.80", "100.64.0.2"
MTU = 1420


class Lab:
    def __init__(self, net):
        self.net = net
        net.wire("client", "c-wan", "gw", "gw-wan")
        net.wire("lan", "l-lan", "gw", "gw-lan")
        net.up("client", "c-wan", f"{CLIENT}/24")
        net.up("lan", "l-lan", f"{SERVER}/24")
        net.up_without_kernel("gw", "gw-wan")
        net.up_without_kernel("gw", "gw-lan")
        private = run("wg", "genkey").stdout.strip()
        self.public = subprocess.run(["wg", "pubkey"], input=private, text=True, capture_output=True,
                                     check=True).stdout.strip()
        self.key = net.directory / "client.key"
        self.key.touch(mode=0o600)
        self.key.write_text(private + "\n")
        self.plane = DataPlane(net, "gw", f"""
private_key_file: {net.directory}/key
control: {{socket: {net.directory}/dataplane.sock}}
tunnel: {{port: wan}}
mtu: {MTU}
dpdk: {{hugepages: auto, memory_mb: 256}}
ports:
  - {{name: wan, device: "net_af_xdp0,iface=gw-wan", addresses: [{GATEWAY}/24]}}
  - {{name: lan, device: "net_af_xdp1,iface=gw-lan", addresses: [203.0.113.1/24]}}
static:
  peers:
    - public_key: "{self.public}"
      tunnel_addresses: [{TUNNEL}]
      authorisations: [{{resource: lan, cidr: 203.0.113.0/24}}]
""", mount_bpf=True)
        net.start("lan", "iperf3", "iperf3", "-s", "--forceflush", "-B", SERVER)
        wait_until(lambda: "listening" in net.log("iperf3").lower(), 5, "iperf3")

    @contextlib.contextmanager
    def penstock(self):
        process = start_penstock(self.net, "client", "client", self.key, self.plane.public_key())
        yield from running(self.net, "client", [process])

    @contextlib.contextmanager
    def wireguard_go(self):
        process = start_wireguard_go(self.net, "client", "wireguard-go", self.key, self.plane.public_key())
        yield from running(self.net, "client", [process])

    def transfer(self, process, reverse, seconds):
        return transfer(self.net, process, reverse, seconds)


class Ends:
    """The same software at both ends of a plain veth pair, with the offloads that network cards have; no gateway
    between.

        a: penstock-client or wireguard-go -- 198.51.100.0/24 -- b: perf-tun-peer or wireguard-go, and iperf3"""

    def __init__(self, net, gateway_lab):
        self.net, self.key, self.public = net, gateway_lab.key, gateway_lab.public
        run("ip", "link", "add", "a-wan", "netns", net.name("a"), "type", "veth", "peer", "name", "b-wan", "netns",
            net.name("b"))
        net.up("a", "a-wan", f"{CLIENT}/24")
        net.up("b", "b-wan", f"{GATEWAY}/24")
        net.ip("b", "address", "add", f"{SERVER}/32", "dev", "lo")
        net.start("b", "iperf3-b", "iperf3", "-s", "--forceflush")
        wait_until(lambda: "listening" in net.log("iperf3-b").lower(), 5, "iperf3")

    @contextlib.contextmanager
    def plain(self):
        """No tunnel at all."""
        self.net.ip("a", "route", "add", SERVER, "via", GATEWAY)
        try:
            yield None
        finally:
            self.net.ip("a", "route", "del", SERVER)

    def far_end(self, name, device, *command):
        process = self.net.start("b", name, *command)
        wait_until(lambda: self.net.inside("b", "ip", "link", "show", device, check=False).returncode == 0, 5, name)
        return process

    def route_back(self, device):
        self.net.ip("b", "link", "set", device, "mtu", str(MTU), "up")
        self.net.ip("b", "route", "add", TUNNEL, "dev", device)

    @contextlib.contextmanager
    def penstock(self):
        net = self.net
        far = self.far_end("tun-peer", "far0", BUILD / "perf" / "client" / "perf-tun-peer", "--key",
                           net.directory / "far", "--peer", self.public, "--tun", "far0", "--mtu", MTU)
        wait_until(lambda: "ready " in net.log("tun-peer"), 5, "perf-tun-peer")
        self.route_back("far0")
        process = start_penstock(net, "a", "client-a", self.key, net.log("tun-peer").split()[1])
        yield from running(net, "a", [process, far])

    @contextlib.contextmanager
    def wireguard_go(self):
        net = self.net
        secret = run("wg", "genkey").stdout.strip()
        key = net.directory / "far-go.key"
        key.touch(mode=0o600)
        key.write_text(secret + "\n")
        public = subprocess.run(["wg", "pubkey"], input=secret, text=True, capture_output=True,
                                check=True).stdout.strip()
        device = f"wgf{os.getpid() % 100000}"
        far = self.far_end("wireguard-go-far", device, "wireguard-go", "-f", device)
        wait_until(lambda: net.inside("b", "wg", "show", device, check=False).returncode == 0, 5, "wireguard-go")
        net.inside("b", "wg", "set", device, "private-key", str(key), "listen-port", "51820", "peer", self.public,
                   "allowed-ips", f"{TUNNEL}/32")
        self.route_back(device)
        process = start_wireguard_go(net, "a", "wireguard-go-a", self.key, public)
        yield from running(net, "a", [process, far])

    def transfer(self, process, reverse, seconds):
        return transfer(self.net, process, reverse, seconds, "a")


def start_penstock(net, host, name, key, public):
    """penstock-client with one gateway by file."""
    directory = net.directory / name
    directory.mkdir(exist_ok=True)
    (directory / "gateway.yaml").write_text(json.dumps({
        "gateway": {"public_key": public, "endpoints": [f"{GATEWAY}:51820"]},
        "tunnel_addresses": [TUNNEL], "pools": {},
        "resources": [{"id": "lan", "kind": "cidr", "prefix": "203.0.113.0/24"}]}))
    (directory / "client.yaml").write_text(json.dumps({
        "control": {"socket": str(directory / "client.sock")}, "state_directory": str(directory / "state"),
        "private_key_file": str(key), "tun": {"name": "penstock0", "mtu": MTU}, "dns": {"mode": "off"},
        "gateway_file": str(directory / "gateway.yaml")}))
    return net.start(host, name, BUILD / "controlplane" / "client" / "penstock-client", "--config",
                     directory / "client.yaml")


def start_wireguard_go(net, host, name, key, public):
    device = f"wgc{os.getpid() % 100000}"
    process = net.start(host, name, "wireguard-go", "-f", device)
    wait_until(lambda: net.inside(host, "wg", "show", device, check=False).returncode == 0, 5, "wireguard-go")
    net.inside(host, "wg", "set", device, "private-key", str(key), "peer", public, "endpoint", f"{GATEWAY}:51820",
               "allowed-ips", "203.0.113.0/24")
    net.up(host, device, f"{TUNNEL}/32")
    net.ip(host, "link", "set", device, "mtu", str(MTU))
    net.ip(host, "route", "add", "203.0.113.0/24", "dev", device)
    return process


def running(net, host, processes):
    """Yields the first, once the tunnel carries a ping; ends them all."""
    try:
        wait_until(lambda: net.inside(host, "ping", "-c1", "-W1", SERVER, check=False).returncode == 0, 15,
                   "a ping through the tunnel")
        yield processes[0]
    finally:
        for process in processes:
            process.terminate()
            process.wait(10)


def transfer(net, process, reverse, seconds, host="client"):
    """Gbit/s, and Gbit per second of the client's processor time (None: there is no client)."""
    clock = Clock(process.pid if process else os.getpid())
    found = net.inside(host, "iperf3", "-c", SERVER, "-t", str(seconds), "-J", *(["-R"] if reverse else []),
                       check=False)
    used = clock.elapsed()[1]
    if found.returncode != 0:
        raise Failure(f"iperf3: {found.stdout[-400:]}")
    end = json.loads(found.stdout)["end"]["sum_received"]
    return end["bits_per_second"] / 1e9, end["bytes"] * 8 / 1e9 / max(used, 0.01) if process else None


def measure(suite, lab, names, figures, seconds, label):
    for name, start in names:
        with start() as process:
            for reverse in (False, True):
                rate, per_core = lab.transfer(process, reverse, seconds)
                way = "down" if reverse else "up"
                suite.say(f"{label}: {name} {way}: {rate:.2f} Gbit/s" +
                          (f", {per_core:.2f} Gbit per CPU second" if per_core else ""))
                figures.setdefault((name, way), []).append((rate, per_core))


def rows(suite, figures, prefix, goals):
    for way in ("up", "down"):
        for index, what in ((0, f"{prefix}tcp"), (1, f"{prefix}per-core")):
            ours = [figure[index] for figure in figures["Penstock", way]]
            theirs = statistics.median(figure[index] for figure in figures["wireguard-go", way])
            plain = figures.get(("no tunnel", way))
            limit = statistics.median(figure[0] for figure in plain) if plain and index == 0 else None
            goal, goal_ratio = goals[index]
            suite.row(f"{what}/{way}", statistics.median(ours), "Gbit/s" if index == 0 else "Gbit/CPU-s",
                      spread=[min(ours), max(ours)], limit=limit, goal=goal, goal_ratio=goal_ratio, peer="wireguard-go",
                      peer_value=theirs)


def main():
    with Suite("client", __doc__.splitlines()[0]) as suite, Network("client", "gw", "lan", "a", "b") as net:
        lab = Lab(net)
        ends = Ends(net, lab)
        chain, direct = {}, {}
        rounds, seconds = (1, 2) if suite.quick else (3, 2)
        for number in range(rounds):
            label = f"round {number + 1}"
            # A data plane polls: it must not take a core from the ends, nor they from it.
            lab.plane.process.send_signal(signal.SIGSTOP)
            measure(suite, ends, (("no tunnel", ends.plain), ("Penstock", ends.penstock),
                                  ("wireguard-go", ends.wireguard_go)), direct, seconds, f"{label}, both ends")
            lab.plane.process.send_signal(signal.SIGCONT)
            measure(suite, lab, (("Penstock", lab.penstock), ("wireguard-go", lab.wireguard_go)), chain, seconds,
                    f"{label}, through the gateway")
        rows(suite, direct, "", ((3, 6), (None, 6)))
        rows(suite, chain, "gateway/", ((None, None), (None, 6)))


if __name__ == "__main__":
    try:
        main()
    except (Failure, subprocess.SubprocessError) as failure:
        print(failure, file=sys.stderr)
        sys.exit(1)
