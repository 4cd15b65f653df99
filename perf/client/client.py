#!/usr/bin/python3 -B
"""TCP through the client's TUN device, beside Debian's wireguard-go as the client of the same gateway, in turn.

    client: penstock-client or wireguard-go -- 198.51.100.0/24 -- gw: penstock-dataplane -- 203.0.113.0/24 -- lan: iperf3

Everything runs on this machine's cores, so Gbit/s are those of the whole chain; Gbit per second of the client's processor
time is the client's own."""

import contextlib
import json
import os
import pathlib
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
        net = self.net
        (net.directory / "gateway.yaml").write_text(json.dumps({
            "gateway": {"public_key": self.plane.public_key(), "endpoints": [f"{GATEWAY}:51820"]},
            "tunnel_addresses": [TUNNEL], "pools": {},
            "resources": [{"id": "lan", "kind": "cidr", "prefix": "203.0.113.0/24"}]}))
        (net.directory / "client.yaml").write_text(json.dumps({
            "control": {"socket": str(net.directory / "client.sock")}, "state_directory": str(net.directory / "state"),
            "private_key_file": str(self.key), "tun": {"name": "penstock0", "mtu": MTU}, "dns": {"mode": "off"},
            "gateway_file": str(net.directory / "gateway.yaml")}))
        process = net.start("client", "client", BUILD / "controlplane" / "client" / "penstock-client", "--config",
                            net.directory / "client.yaml")
        yield from self.running(process)

    @contextlib.contextmanager
    def wireguard_go(self):
        net, device = self.net, f"wgc{os.getpid() % 100000}"
        process = net.start("client", "wireguard-go", "wireguard-go", "-f", device)
        wait_until(lambda: net.inside("client", "wg", "show", device, check=False).returncode == 0, 5, "wireguard-go")
        net.inside("client", "wg", "set", device, "private-key", str(self.key), "peer", self.plane.public_key(), "endpoint",
                   f"{GATEWAY}:51820", "allowed-ips", "203.0.113.0/24")
        net.up("client", device, f"{TUNNEL}/32")
        net.ip("client", "link", "set", device, "mtu", str(MTU))
        net.ip("client", "route", "add", "203.0.113.0/24", "dev", device)
        yield from self.running(process)

    def running(self, process):
        try:
            wait_until(lambda: self.net.inside("client", "ping", "-c1", "-W1", SERVER, check=False).returncode == 0, 15,
                       "a ping through the tunnel")
            yield process
        finally:
            process.terminate()
            process.wait(10)

    def transfer(self, process, reverse, seconds):
        """Gbit/s, and Gbit per second of the client's processor time."""
        clock = Clock(process.pid)
        found = self.net.inside("client", "iperf3", "-c", SERVER, "-t", str(seconds), "-J", *(["-R"] if reverse else []),
                                check=False)
        wall, used = clock.elapsed()
        if found.returncode != 0:
            raise Failure(f"iperf3: {found.stdout[-400:]}")
        end = json.loads(found.stdout)["end"]["sum_received"]
        return end["bits_per_second"] / 1e9, end["bytes"] * 8 / 1e9 / max(used, 0.01)


def main():
    with Suite("client", __doc__.splitlines()[0]) as suite, Network("client", "gw", "lan") as net:
        lab, figures = Lab(net), {}
        rounds, seconds = (1, 2) if suite.quick else (3, 4)
        for number in range(rounds):
            for name, start in (("Penstock", lab.penstock), ("wireguard-go", lab.wireguard_go)):
                with start() as process:
                    for reverse in (False, True):
                        rate, per_core = lab.transfer(process, reverse, seconds)
                        way = "down" if reverse else "up"
                        suite.say(f"round {number + 1}: {name} {way}: {rate:.2f} Gbit/s, {per_core:.2f} Gbit per CPU second")
                        figures.setdefault((name, way), []).append((rate, per_core))
        for way in ("up", "down"):
            for index, what, goal, goal_ratio in ((0, "tcp", 3, 6), (1, "per-core", None, None)):
                ours = [figure[index] for figure in figures["Penstock", way]]
                theirs = statistics.median(figure[index] for figure in figures["wireguard-go", way])
                suite.row(f"{what}/{way}", statistics.median(ours), "Gbit/s" if index == 0 else "Gbit/CPU-s",
                          spread=[min(ours), max(ours)], goal=goal, goal_ratio=goal_ratio, peer="wireguard-go",
                          peer_value=theirs)


if __name__ == "__main__":
    try:
        main()
    except (Failure, subprocess.SubprocessError) as failure:
        print(failure, file=sys.stderr)
        sys.exit(1)
