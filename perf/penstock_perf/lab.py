"""One wire, several devices under test: penstock-generator on both ends, and in the middle the data plane, wireguard-go
or tayga, one after the other over the same veth pairs.

    gen: wan0 ---- gw-wan :gw: gw-lan ---- lan0 :gen
"""

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import time

from penstock_perf.bench import BUILD, Clock

from netns import DataPlane, Failure, Network, run, wait_until

GENERATOR = BUILD / "perf" / "generator" / "penstock-generator"
WAN_GATEWAY, LAN_GATEWAY, SERVER = "198.51.100.1", "203.0.113.1", "203.0.113.80"
PEERS = 4


def test_peers(count=PEERS, *more):
    """The generator's clients as the data plane's `static:` section."""
    return subprocess.run([GENERATOR, "--peers", str(count), *more, "keys"], text=True, capture_output=True,
                          check=True).stdout


class Wire:
    """The two namespaces and the two wires; `with Wire() as wire:`."""

    def __init__(self):
        self.net = Network("gen", "gw")

    def __enter__(self):
        net = self.net.__enter__()
        net.wire("gen", "wan0", "gw", "gw-wan")
        net.wire("gen", "lan0", "gw", "gw-lan")
        for interface in ("wan0", "lan0"):
            net.up_without_kernel("gen", interface)
        for interface in ("gw-wan", "gw-lan"):
            net.inside("gw", "sysctl", "-qw", f"net.ipv6.conf.{interface}.accept_dad=0")
            net.ip("gw", "link", "set", interface, "up")
        net.inside("gw", "sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1",
                   "net.ipv4.conf.all.rp_filter=0", "net.ipv4.conf.default.rp_filter=0")
        return self

    def __exit__(self, *details):
        self.net.__exit__(*details)

    def generate(self, *arguments, driver="af_xdp", core=0, seconds=30):
        """Runs the generator; returns what it found, one dictionary per direction and size."""
        out = self.net.directory / "generator.json"
        out.unlink(missing_ok=True)
        command = [GENERATOR, "--wan", f"net_{driver}0,iface=wan0", "--lan", f"net_{driver}1,iface=lan0", "--core",
                   str(core),
                   "--gateway", WAN_GATEWAY, "--lan-gateway", LAN_GATEWAY, "--server", f"{SERVER}:7000", "--json", out,
                   *arguments]
        # The kernel lets go of the AF_XDP sockets of the last process some time after its end.
        deadline = time.monotonic() + 5
        while True:
            code = self._generator(command, seconds)
            if code == 0:
                break
            log = self.net.log("generator").strip()
            if "xsk socket" not in log or time.monotonic() > deadline:
                raise Failure(f"generator: {log}")
            time.sleep(0.1)
        return [json.loads(line) for line in out.read_text().splitlines()]

    def _generator(self, command, seconds):
        process = self.net.start("gen", "generator", *command, mount_bpf=True)
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise Failure(f"generator not done within {seconds} s: {self.net.log('generator')}") from None

    def mac(self, interface):
        return self.net.inside("gw", "cat", f"/sys/class/net/{interface}/address").stdout.strip()


class Device:
    """A device under test: `pid` of the process that does the work, `load`: the generator's arguments for it."""

    name = ""
    pid = 0
    load = ()

    def measure(self, wire, *arguments, **options):
        """The generator's results with the processor time that the device used meanwhile."""
        clock = Clock(self.pid)
        results = wire.generate(*self.load, *arguments, **options)
        _, used = clock.elapsed()
        return results, used


@contextlib.contextmanager
def kernel_router(wire):
    """The kernel forwards between the two wires."""
    net = wire.net
    net.ip("gw", "address", "add", f"{WAN_GATEWAY}/24", "dev", "gw-wan")
    net.ip("gw", "address", "add", f"{LAN_GATEWAY}/24", "dev", "gw-lan")
    try:
        yield
    finally:
        for interface in ("gw-wan", "gw-lan"):
            net.inside("gw", "ip", "address", "flush", "dev", interface, check=False)


class Penstock(Device):
    name = "Penstock"

    def __init__(self, wire, driver="af_xdp", core=1):
        self.wire, self.driver, self.core = wire, driver, core

    def __enter__(self):
        net = self.wire.net
        keys = test_peers()
        self.plane = DataPlane(net, "gw", f"""
private_key_file: {net.directory}/key
control: {{socket: {net.directory}/dataplane.sock}}
tunnel: {{port: wan}}
mtu: 1420
dpdk: {{hugepages: auto, memory_mb: 256}}
workers: {{count: 1, cores: [{self.core}], poll: busy}}
ports:
  - {{name: wan, device: "net_{self.driver}0,iface=gw-wan", addresses: [{WAN_GATEWAY}/24]}}
  - {{name: lan, device: "net_{self.driver}1,iface=gw-lan", addresses: [{LAN_GATEWAY}/24]}}
{keys}""", mount_bpf=self.driver == "af_xdp")
        self.pid = self.plane.process.pid
        self.load = ("--gateway-key", self.plane.public_key(), "--peers", str(PEERS), "--translation", "nat64")
        return self

    def __exit__(self, *_):
        self.plane.process.send_signal(signal.SIGTERM)
        self.plane.process.wait(10)


class WireguardGo(Device):
    name = "wireguard-go"

    def __init__(self, wire):
        self.wire, self.stack = wire, contextlib.ExitStack()

    def __enter__(self):
        net = self.wire.net
        self.stack.enter_context(kernel_router(self.wire))
        interface = f"wgp{os.getpid() % 100000}"
        process = net.start("gw", "wireguard-go", "wireguard-go", "-f", interface)
        self.stack.callback(self._end, process)
        wait_until(lambda: net.inside("gw", "wg", "show", interface, check=False).returncode == 0, 5, "wireguard-go")
        private = run("wg", "genkey").stdout.strip()
        public = subprocess.run(["wg", "pubkey"], input=private, text=True, capture_output=True,
                                check=True).stdout.strip()
        keys = test_peers()
        text = f"[Interface]\nPrivateKey = {private}\nListenPort = 51820\n"
        for line in keys.splitlines():
            if "public_key" in line:
                text += f"[Peer]\nPublicKey = {line.split(chr(34))[1]}\n"
            if "tunnel_addresses" in line:
                text += f"AllowedIPs = {line.split('[')[1].split(',')[0]}/32\n"
        settings = net.directory / "wg.conf"
        settings.write_text(text)
        net.inside("gw", "wg", "setconf", interface, str(settings))
        net.ip("gw", "link", "set", interface, "up", "mtu", "1420")
        net.ip("gw", "route", "add", "100.64.0.0/11", "dev", interface)
        self.pid = process.pid
        # Forwarding only: no translation, which is the kernel's work here and not wireguard-go's.
        self.load = ("--gateway-key", public, "--peers", str(PEERS), "--translation", "nat44", "--destination", SERVER)
        return self

    @staticmethod
    def _end(process):
        process.terminate()
        process.wait(10)

    def __exit__(self, *details):
        return self.stack.__exit__(*details)


class Tayga(Device):
    """NAT64 alone, IPv6 in, IPv4 out, without WireGuard."""

    name = "tayga"

    def __init__(self, wire):
        self.wire, self.stack = wire, contextlib.ExitStack()

    def __enter__(self):
        net = self.wire.net
        self.stack.enter_context(kernel_router(self.wire))
        state = net.directory / "tayga"
        state.mkdir(exist_ok=True)
        settings = net.directory / "tayga.conf"
        settings.write_text(f"tun-device nat64\nipv4-addr 192.0.0.1\nipv6-addr 2001:db8:64::1\n"
                            f"prefix 2001:db8:64:1::/96\ndynamic-pool 192.0.0.128/25\ndata-dir {state}\n")
        net.inside("gw", "tayga", "--mktun", "-c", str(settings))
        self.stack.callback(lambda: net.inside("gw", "tayga", "--rmtun", "-c", str(settings), check=False))
        net.ip("gw", "link", "set", "nat64", "up")
        net.ip("gw", "route", "add", "192.0.0.0/24", "dev", "nat64")
        net.ip("gw", "-6", "route", "add", "2001:db8:64:1::/96", "dev", "nat64")
        net.ip("gw", "-6", "address", "add", "2001:db8:1::1/64", "dev", "gw-wan", "nodad")
        net.ip("gw", "-6", "neighbour", "replace", "2001:db8:1::2", "lladdr",
               net.inside("gen", "cat", "/sys/class/net/wan0/address").stdout.strip(), "dev", "gw-wan")
        process = net.start("gw", "tayga", "tayga", "-d", "-c", str(settings))
        self.stack.callback(WireguardGo._end, process)
        link = ("ip", "-o", "link", "show", "nat64", "up")
        wait_until(lambda: process.poll() is None and net.inside("gw", *link).stdout, 5,
                   "tayga")
        self.pid = process.pid
        destination = "2001:db8:64:1::" + "{:02x}{:02x}:{:02x}{:02x}".format(*map(int, SERVER.split(".")))
        self.load = ("--plain", "--translation", "nat64", "--destination", destination, "--source", "2001:db8:1::2",
                     "--gateway-mac", self.wire.mac("gw-wan"), "--flows", "16")
        return self

    def __exit__(self, *details):
        return self.stack.__exit__(*details)
