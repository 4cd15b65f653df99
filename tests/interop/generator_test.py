#!/usr/bin/python3
"""The packet generator against the data plane over memif: both translations, both directions, sealed and opened for
real; and what it says when there is nobody to measure."""

import json
import os
import subprocess

from netns import DataPlane, Failure, Network, build_directory, main

GENERATOR = build_directory() / "perf" / "generator" / "penstock-generator"


def device(number, role, socket):
    return f"net_memif{number},role={role},id=0,socket={socket},socket-abstract=no,rsize=10,bsize=2048"


def generate(net, key, *arguments, seconds=60):
    out = net.directory / "results.json"
    process = net.start("box", "generator", GENERATOR, "--wan", device(0, "client", net.directory / "wan.sock"),
                        "--lan", device(1, "client", net.directory / "lan.sock"), "--gateway-key", key, "--peers", "3",
                        "--json", out, *arguments)
    try:
        code = process.wait(seconds)
    except subprocess.TimeoutExpired:
        raise Failure(f"generator not done within {seconds} s\n{net.log('generator')}") from None
    return code, [json.loads(line) for line in out.read_text().splitlines()] if code == 0 else []


def start_plane(net, translation):
    keys = subprocess.run([GENERATOR, "--peers", "3", "--translation", translation, "keys"], text=True,
                          capture_output=True, check=True).stdout
    return DataPlane(net, "box", f"""
private_key_file: {net.directory}/key
control: {{socket: {net.directory}/dataplane.sock}}
tunnel: {{port: wan}}
mtu: 1420
dpdk: {{hugepages: false, memory_mb: 256}}
ports:
  - {{name: wan, device: "{device(0, 'server', f'{net.directory}/wan.sock')}", addresses: [198.51.100.1/24]}}
  - {{name: lan, device: "{device(1, 'server', f'{net.directory}/lan.sock')}", addresses: [203.0.113.1/24]}}
{keys}""")


def carries(translation):
    with Network("box") as net:
        plane = start_plane(net, translation)
        code, results = generate(net, plane.public_key(), "--translation", translation, "--rate", "5k", "--seconds",
                                 "0.5", "--flows", "40", "--sizes", "64,imix,1420")
        if code != 0:
            raise Failure(net.log("generator"))
        asked_for = [(direction, size) for direction in ("up", "down") for size in ("64", "imix", "1420")]
        if [(r["direction"], r["size"]) for r in results] != asked_for:
            raise Failure(f"results for other trials than asked for: {results}")
        for found in results:
            trial = found["result"]
            # A loaded test machine may lose or send less; what comes must come right, and most must come.
            if trial["corrupt"] or trial["received"] < 0.5 * trial["sent"] or trial["checked"] < 10:
                raise Failure(f"{found['direction']}/{found['size']}: {trial}")
            if trial["received"] > trial["sent"]:
                raise Failure(f"more came than was sent: {trial}")
        plane.stop()


def nat64_both_ways():
    carries("nat64")


def nat44_both_ways():
    carries("nat44")


def finds_a_rate_without_loss():
    with Network("box") as net:
        plane = start_plane(net, "nat64")
        code, results = generate(net, plane.public_key(), "--sizes", "64", "--directions", "up", "--seconds", "0.1",
                                 "--tolerance", "0.01", "--resolution", "0.3", "--latency-share", "0.5")
        if code != 0:
            raise Failure(net.log("generator"))
        (found,) = results
        if not found["result"]["sent"] or found["result"]["lost"] > 0.01 * found["result"]["sent"]:
            raise Failure(f"no such rate: {found['result']}")
        if not found["latency"]["latency_us"]["p50"] > 0:
            raise Failure(f"no times: {found['latency']}")


def a_wrong_key_is_told():
    with Network("box") as net:
        start_plane(net, "nat64")
        wrong = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
        other = subprocess.run(["wg", "pubkey"], input=wrong, text=True, capture_output=True, check=True).stdout.strip()
        code, _ = generate(net, other, "--rate", "1k", "--sizes", "64")
        if code == 0 or "3 of 3 handshakes were not answered" not in net.log("generator"):
            raise Failure(f"exit {code}: {net.log('generator')}")


if __name__ == "__main__":
    os.environ.setdefault("LC_ALL", "C")
    main([nat64_both_ways, nat44_both_ways, finds_a_rate_without_loss, a_wrong_key_is_told])
