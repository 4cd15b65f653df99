#!/usr/bin/python3 -B
"""This project beside wireguard-go, tayga, OpenSSL and ipsec-mb, on this machine, in one run, interleaved.

aead/*   the AEAD backends alone, one core
core/*   packets per second and core: our worker loop (perf-pipeline) beside what wireguard-go and tayga do in a second
         of processor time, under more load than they can carry
veth/*   like for like: the three as processes over the same two veth pairs, loaded by the same generator
"""

import json
import pathlib
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from penstock_perf.bench import BUILD, Suite, median, spread  # noqa: E402
from penstock_perf.lab import Failure, Penstock, Tayga, WireguardGo, Wire  # noqa: E402

AEAD = BUILD / "perf" / "compare" / "perf-compare-aead"
PIPELINE = BUILD / "perf" / "pipeline" / "perf-pipeline"
SIZES = ("64", "1420")


def aead(suite):
    suite.say("AEAD backends")
    sizes = ("64", "576", "1420") if suite.quick else ("64", "256", "576", "1420", "8900")
    out = subprocess.run([AEAD, "20", "7" if suite.quick else "25", *sizes], text=True, capture_output=True, check=True)
    found = [json.loads(line) for line in out.stdout.splitlines()]
    for size in sizes:
        of_size = {row["backend"]: row for row in found if row["size"] == int(size)}
        ours = of_size["auto"]
        for peer in ("ipsec-mb", "openssl"):
            if peer in of_size:
                suite.row(f"aead/{size}", ours["gbit"], "Gbit/s", spread=[ours["low"], ours["high"]], peer=peer,
                          peer_value=of_size[peer]["gbit"],
                          note=f"{ours['cycles']:.0f} cycles per packet ({ours['context']})" if peer == "ipsec-mb"
                          else None)


def pipeline(names, seconds):
    """Mpps of one worker for each name."""
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        run = subprocess.run([PIPELINE, *names, "--seconds", str(seconds), "--json", file.name], text=True,
                             capture_output=True)
        if run.returncode != 0:
            raise Failure(f"perf-pipeline: {(run.stderr + run.stdout).strip()[-600:]}")
        rows = json.loads(pathlib.Path(file.name).read_text())
    return {row["name"]: row["value"] for row in rows if row["unit"] == "Mpps" and row["name"] in names}


class Measured:
    """Windows by (device, direction, size): Mpps on the wire, and Mpps per second of the device's processor time."""

    def __init__(self):
        self.wire, self.core = {}, {}

    def add(self, key, results, used):
        total = sum(result["result"]["received"] for result in results)
        self.wire.setdefault(key, []).append(results[0]["result"]["pps"] / 1e6)
        self.core.setdefault(key, []).append(total / used / 1e6)


def one_round(suite, wire, measured, seconds):
    for device_type in (Penstock, WireguardGo, Tayga):
        with device_type(wire) as device:
            for direction in ("up",) if device_type is Tayga else ("up", "down"):
                for size in SIZES:
                    results, used = device.measure(wire, "--directions", direction, "--sizes", size, "--rate", "max",
                                                   "--seconds", str(seconds))
                    result = results[0]["result"]
                    if result["corrupt"]:
                        raise Failure(f"{device.name}: {result['corrupt']} of {result['checked']} packets damaged")
                    measured.add((device.name, direction, size), results, used)
                    suite.say(f"{device.name} {direction}/{size}: {result['pps'] / 1e6:.3f} Mpps over veth, "
                              f"{used:.2f} s of processor time")


def main():
    with Suite("compare", __doc__.splitlines()[0]) as suite:
        aead(suite)
        rounds, seconds = (2, 0.7) if suite.quick else (5, 1.5)
        measured, ours = Measured(), {}
        names = [f"{way}/{size}" for way in ("up", "down", "nat64") for size in SIZES]
        with Wire() as wire:
            for number in range(rounds):
                suite.say(f"round {number + 1} of {rounds}")
                for name, value in pipeline(names, seconds / 3).items():
                    ours.setdefault(name, []).append(value)
                one_round(suite, wire, measured, seconds)
        report(suite, ours, measured)


def report(suite, ours, measured):
    for direction in ("up", "down"):
        for size in SIZES:
            name = f"{direction}/{size}"
            peer = median(measured.core[("wireguard-go", direction, size)])
            suite.row(f"core/{name}", median(ours[name]), "Mpps", spread=spread(ours[name]), peer="wireguard-go",
                      peer_value=peer, goal_ratio=70 if size == "64" else None,
                      note="wireguard-go forwards without translating" if size == "64" else None)
    for size in SIZES:
        name = f"nat64/{size}"
        suite.row(f"core/{name}", median(ours[name]), "Mpps", spread=spread(ours[name]), peer="tayga",
                  peer_value=median(measured.core[("tayga", "up", size)]), goal_ratio=50 if size == "64" else None)
    for direction in ("up", "down"):
        for size in SIZES:
            mine = measured.wire[("Penstock", direction, size)]
            for peer in ("wireguard-go", "tayga") if direction == "up" else ("wireguard-go",):
                theirs = median(measured.wire[(peer, direction, size)])
                suite.row(f"veth/{direction}/{size}", median(mine), "Mpps", spread=spread(mine), peer=peer,
                          peer_value=theirs,
                          note="ours decrypts and translates; tayga translates only" if peer == "tayga" else None)


if __name__ == "__main__":
    try:
        main()
    except (Failure, subprocess.CalledProcessError) as failure:
        print(failure, getattr(failure, "stderr", "") or "", file=sys.stderr)
        sys.exit(1)
