#!/usr/bin/python3
"""The data plane as a process on real interfaces, without tunnels: it starts, answers for its own addresses over every
driver, rests when there is nothing to do, refuses bad configurations, and leaves nothing behind."""

import contextlib
import os
import pathlib
import re
import statistics
import subprocess

from netns import DataPlane, Failure, Network, build_directory, main, run

KEYS = "private_key_file: {directory}/key\ncontrol: {{socket: {directory}/dataplane.sock}}\n"


def configuration(net, wan_device, lan_device, extra=""):
    return KEYS.format(directory=net.directory) + f"""
tunnel: {{port: wan}}
dpdk: {{hugepages: false, memory_mb: 256}}
ports:
  - {{name: wan, device: "{wan_device}", addresses: [198.51.100.1/24]}}
  - {{name: lan, device: "{lan_device}", addresses: [203.0.113.1/24, "2001:db8:1a::1/64"]}}
{extra}"""


@contextlib.contextmanager
def wired_network():
    with Network("wan", "gw", "lan") as net:
        net.wire("wan", "wan0", "gw", "gw-wan")
        net.wire("lan", "lan0", "gw", "gw-lan")
        net.up("wan", "wan0", "198.51.100.130/24")
        net.up("lan", "lan0", "203.0.113.80/24", "2001:db8:1a::80/64")
        net.up_without_kernel("gw", "gw-wan")
        net.up_without_kernel("gw", "gw-lan")
        yield net


def answers_pings(net):
    """trap: io-12 — ARP and neighbour discovery by multicast, then echo; both families, both ports."""
    net.ping("wan", "198.51.100.1")
    net.ping("lan", "203.0.113.1")
    net.ping("lan", "2001:db8:1a::1")
    # Another host's address on the same wire is not ours.
    if net.inside("wan", "ping", "-n", "-c", "1", "-W", "1", "198.51.100.2", check=False).returncode == 0:
        raise Failure("somebody answers for 198.51.100.2")


def rests_and_wakes(plane, net):
    share = plane.processor_share(2)
    if share >= 0.05:
        raise Failure(f"uses {share:.1%} of a core without traffic; less than 5 % is allowed")
    times = net.ping("wan", "198.51.100.1", count=20, interval=0.02)
    return (f"start {plane.start_seconds:.2f} s, idle {share:.2%} of a core, "
            f"ping median {statistics.median(times):.3f} ms")


def over_af_packet():
    with wired_network() as net:
        plane = DataPlane(net, "gw", configuration(net, "net_af_packet0,iface=gw-wan", "net_af_packet1,iface=gw-lan"))
        answers_pings(net)
        note = rests_and_wakes(plane, net)
        plane.stop()
        if "PROMISC" in net.ip("gw", "link", "show", "gw-wan").stdout:
            raise Failure("gw-wan is still promiscuous")
        if pathlib.Path(f"/var/run/dpdk/penstock-{plane.process.pid}").exists():
            raise Failure("a run-time directory of DPDK is left behind")
        return note


def over_af_packet_with_two_workers():
    with wired_network() as net:
        plane = DataPlane(net, "gw", configuration(net, "net_af_packet0,iface=gw-wan", "net_af_packet1,iface=gw-lan",
                                                   "workers: {count: 2}\n"))
        answers_pings(net)
        note = rests_and_wakes(plane, net)
        plane.stop()
        return note


def over_af_xdp(extra=""):
    with wired_network() as net:
        plane = DataPlane(net, "gw", configuration(net, "net_af_xdp0,iface=gw-wan", "net_af_xdp1,iface=gw-lan", extra),
                          mount_bpf=True)
        answers_pings(net)
        note = rests_and_wakes(plane, net)
        plane.stop()
        return note


def over_af_xdp_with_fewer_queues_than_workers():
    """A veth has one queue: one worker receives, both send."""
    return over_af_xdp("workers: {count: 2}\n")


def over_tap():
    """The kernel's side of each TAP device moves to a host of its own."""
    with Network("wan", "gw", "lan") as net:
        plane = DataPlane(net, "gw", configuration(net, "net_tap0,iface=tap-wan", "net_tap1,iface=tap-lan"))
        for host, interface, *addresses in (("wan", "tap-wan", "198.51.100.130/24"),
                                            ("lan", "tap-lan", "203.0.113.80/24", "2001:db8:1a::80/64")):
            net.ip("gw", "link", "set", interface, "netns", net.name(host))
            net.up(host, interface, *addresses)
        answers_pings(net)
        note = rests_and_wakes(plane, net)
        plane.stop()
        if net.ip("wan", "-br", "link", "show").stdout.count("tap-"):
            raise Failure("a TAP device is left behind")
        return note


def several_instances_and_mtu():
    """Side by side on one machine, with jumbo frames."""
    with Network("wan", "gw") as net:
        planes = []
        for i in range(2):
            net.wire("wan", f"wan{i}", "gw", f"gw-wan{i}", mtu=9000)
            net.up("wan", f"wan{i}", f"198.51.100.{i * 64 + 62}/26")
            net.up_without_kernel("gw", f"gw-wan{i}")
            planes.append(DataPlane(net, "gw", f"""
private_key_file: {net.directory}/key{i}
control: {{socket: {net.directory}/dataplane{i}.sock}}
tunnel: {{port: wan}}
dpdk: {{hugepages: false, memory_mb: 256}}
ports:
  - {{name: wan, device: "net_af_packet0,iface=gw-wan{i}", addresses: [198.51.100.{i * 64 + 1}/26], mtu: 9000}}
""", name=f"dataplane{i}"))
        for i in range(2):
            net.ping("wan", f"198.51.100.{i * 64 + 1}")
            net.ping("wan", f"198.51.100.{i * 64 + 1}", "-s", "8000", "-M", "do")
        for plane in planes:
            plane.stop()


def without_the_tuning_asked_for():
    """trap: io-13 — hugepages and a core that are not there are no reason to stay away."""
    with wired_network() as net:
        text = configuration(net, "net_af_packet0,iface=gw-wan", "net_af_packet1,iface=gw-lan",
                             "workers: {cores: [1000]}\n").replace("hugepages: false", "hugepages: true")
        plane = DataPlane(net, "gw", text)
        answers_pings(net)
        log = net.log("dataplane")
        if "worker-0 cannot be pinned to core 1000" not in log:
            raise Failure(f"no warning about the core\n{log}")
        plane.stop()


def exception_tap():
    """The host's own kernel reaches both networks through the data plane."""
    with wired_network() as net:
        plane = DataPlane(net, "gw", configuration(net, "net_af_packet0,iface=gw-wan", "net_af_packet1,iface=gw-lan",
                                                   "exception: {tap: penstock0}\n"))
        # The kernel sees the frames of these interfaces too; only the data plane may act on them.
        for interface in ("gw-wan", "gw-lan"):
            net.inside("gw", "nft", f"add table netdev {interface}; add chain netdev {interface} in "
                       f"{{ type filter hook ingress device {interface} priority 0; policy drop; }}")
        net.up("gw", "penstock0", "203.0.113.1/32", "2001:db8:1a::1/128")
        net.ip("gw", "route", "add", "default", "dev", "penstock0", "src", "203.0.113.1")
        net.ip("gw", "-6", "route", "add", "default", "dev", "penstock0", "src", "2001:db8:1a::1")
        net.ping("gw", "203.0.113.80")
        net.ping("gw", "2001:db8:1a::80")
        server = net.start("gw", "server", "/usr/bin/python3", "-c",
                           "import socket; s = socket.create_server(('203.0.113.1', 8080)); c, _ = s.accept();"
                           "c.sendall(c.recv(100).upper())")
        reply = net.inside("lan", "/usr/bin/python3", "-c", """
import socket, time
for attempt in range(100):
    try:
        s = socket.create_connection(('203.0.113.1', 8080), 2)
        break
    except ConnectionRefusedError:
        time.sleep(0.05)
s.sendall(b'hello')
print(s.recv(100).decode())
""").stdout.strip()
        if reply != "HELLO":
            raise Failure(f"a server of the host's kernel answered {reply!r}")
        server.wait(5)
        plane.stop()
        if "penstock0" in net.ip("gw", "-br", "link", "show").stdout:
            raise Failure("the TAP device is left behind")


def refuses_bad_configurations():
    with Network("gw") as net:
        binary = build_directory() / "dataplane" / "penstock-dataplane"
        file = net.directory / "bad.yaml"
        good = configuration(net, "net_af_packet0,iface=nothing", "net_ring0")
        for text, expected in (
                ("colour: red\n" + good, f"{file}: colour: is not a known key"),
                (good, f"{file}: ports[0].device: the device cannot be opened"),
                (good.replace("listen", "x").replace("198.51.100.1/24", "198.51.100.1/99"),
                 f"{file}: ports[0].addresses[0]: must be a whole number from 0 to 32")):
            file.write_text(text)
            result = net.inside("gw", str(binary), "--config", str(file), check=False)
            if result.returncode != 2 or expected not in result.stdout:
                raise Failure(f"expected exit 2 and {expected!r}, got {result.returncode} and\n{result.stdout}")
        key = net.directory / "key"
        if key.stat().st_mode & 0o777 != 0o600:
            raise Failure("the private key's file does not have mode 0600")
        os.chmod(key, 0o644)
        file.write_text(good)
        result = net.inside("gw", str(binary), "--config", str(file), check=False)
        if result.returncode != 2 or f"{file}: private_key_file: {key} may be read by" not in result.stdout:
            raise Failure(f"a readable key was not refused: {result.stdout}")
        if key.read_text().strip() in result.stdout:
            raise Failure("the key is in the output")
        checked = subprocess.run([binary, "--check", "--config", file], text=True, capture_output=True)
        if checked.returncode != 0 or not re.search(r": ok: 2 ports", checked.stdout):
            raise Failure(f"--check says {checked.returncode}: {checked.stdout}{checked.stderr}")
        run(str(binary), "--version")


if __name__ == "__main__":
    main([refuses_bad_configurations, over_af_packet, over_af_packet_with_two_workers, over_af_xdp,
          over_af_xdp_with_fewer_queues_than_workers, over_tap, without_the_tuning_asked_for,
          several_instances_and_mtu, exception_tap])
