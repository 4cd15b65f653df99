#!/usr/bin/python3 -B
"""The data plane as it ships, in a process of its own with memif ports, loaded by penstock-generator from another
process.

    penstock-generator ==memif== wan :penstock-dataplane (one worker, busy): lan ==memif== penstock-generator

Per direction and size: the rate without loss (RFC 2544's search), the rate under overload, latency at half load."""

import json
import pathlib
import signal
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from penstock_perf.bench import Suite  # noqa: E402
from penstock_perf.lab import GENERATOR, LAN_GATEWAY, SERVER, WAN_GATEWAY, test_peers  # noqa: E402

from netns import DataPlane, Failure, Network  # noqa: E402

PEERS = 16


def device(number, role, socket):
    return f"net_memif{number},role={role},id=0,socket={socket},socket-abstract=no,rsize=12,bsize=2048"


def configuration(directory):
    return f"""
private_key_file: {directory}/key
control: {{socket: {directory}/dataplane.sock}}
tunnel: {{port: wan}}
mtu: 1420
dpdk: {{hugepages: auto, memory_mb: 256}}
workers: {{count: 1, cores: [1], poll: busy}}
ports:
  - {{name: wan, device: "{device(0, 'server', f'{directory}/wan.sock')}", addresses: [{WAN_GATEWAY}/24]}}
  - {{name: lan, device: "{device(1, 'server', f'{directory}/lan.sock')}", addresses: [{LAN_GATEWAY}/24]}}
{test_peers(PEERS)}"""


def generate(net, key, *arguments, seconds):
    out = net.directory / "generator.json"
    process = net.start("box", "generator", GENERATOR, "--wan", device(0, "client", net.directory / "wan.sock"),
                        "--lan",
                        device(1, "client", net.directory / "lan.sock"), "--gateway-key", key, "--core", "0", "--peers",
                        str(PEERS), "--gateway", WAN_GATEWAY, "--lan-gateway", LAN_GATEWAY, "--server",
                        f"{SERVER}:7000",
                        "--json", out, *arguments)
    try:
        code = process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise Failure(f"generator not done within {seconds} s\n{net.log('generator')}") from None
    if code != 0:
        raise Failure(f"generator: {net.log('generator').strip()}")
    return [json.loads(line) for line in out.read_text().splitlines()]


def report(suite, results):
    for found in results:
        name = f"{found['direction']}/{found['size']}"
        best, overload = found["result"], found["overload"]
        if not best["sent"]:
            raise Failure(f"{name}: there is no rate without loss; "
                          f"under overload {overload['pps'] / 1e6:.2f} Mpps pass")
        note = f"{found['trials']} trials"
        if found["generator_limited"]:
            note += "; the generator sent no faster: the data plane may do more"
        suite.row(f"no-drop/{name}", best["pps"] / 1e6, "Mpps", best=overload["pps"] / 1e6, note=note)
        suite.row(f"no-drop/{name}", best["gbit"], "Gbit/s", best=overload["gbit"])
        suite.row(f"overload/{name}", overload["pps"] / 1e6, "Mpps")
        if "latency" in found:
            latency = found["latency"]
            for share in ("p50", "p99"):
                suite.row(f"latency/{name}/{share}", latency["latency_us"][share], "us", better="less",
                          distribution=latency["distribution"] if share == "p50" else None,
                          note=f"at half of the no-drop rate; {latency['lost']} of {latency['sent']} lost"
                          if share == "p50" else None)


def main():
    with Suite("memif", __doc__.splitlines()[0]) as suite, Network("box") as net:
        plane = DataPlane(net, "box", configuration(net.directory))
        suite.say(f"data plane ready after {plane.start_seconds:.2f} s")
        sizes = "64,1420" if suite.quick else "64,imix,1420"
        # A machine with other things to do loses some packets at any rate: a share of 1e-4 may be.
        results = generate(net, plane.public_key(), "--sizes", sizes, "--seconds", "0.4" if suite.quick else "1",
                           "--tolerance", "1e-4", "--resolution", "0.1" if suite.quick else "0.03", "--latency-share",
                           "0.5",
                           seconds=60 if suite.quick else 400)
        for line in net.log("generator").splitlines():
            suite.say(line)
        report(suite, results)
        plane.process.send_signal(signal.SIGTERM)
        plane.process.wait(10)


if __name__ == "__main__":
    try:
        main()
    except (Failure, subprocess.SubprocessError) as failure:
        print(failure, file=sys.stderr)
        sys.exit(1)
