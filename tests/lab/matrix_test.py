#!/usr/bin/python3
"""Direct wherever RFC 4787 theory allows it, relayed elsewhere, never nothing: real processes behind the wire's NATs,
cell by cell. `--all` runs all 81 cells; otherwise a subset that has every mapping and filtering on both sides."""

import os
import subprocess
import sys
import time

from penstock_lab.kinds import MAPPINGS, direct_is_possible, parse
from penstock_lab.lab import Lab
from penstock_lab.process import wait_until
from penstock_lab.topology import LabError
from penstock_lab.wire import WireNat

NAME = "matrix"
TARGET = "web.corp.example"
DIRECT_WITHIN = 10.0
ANSWERED_WITHIN = 3.0
# A direct path that theory denies would have come by then: direct ones take one or two seconds.
STAYS_RELAYED = 6.0

# (client's mapping, filtering), (gateway's mapping, filtering)
SUBSET = (
    (("independent", "independent"), ("port", "port")),
    (("independent", "address"), ("port", "address")),
    (("independent", "port"), ("independent", "port")),
    (("independent", "port"), ("address", "address")),
    (("independent", "port"), ("port", "independent")),
    (("address", "address"), ("independent", "address")),
    (("address", "port"), ("independent", "port")),
    (("address", "independent"), ("address", "address")),
    (("port", "address"), ("address", "independent")),
    (("port", "port"), ("independent", "address")),
    (("port", "port"), ("independent", "independent")),
    (("port", "port"), ("port", "port")),
)
EVERYTHING = tuple(((cm, cf), (gm, gf)) for cm in MAPPINGS for cf in MAPPINGS for gm in MAPPINGS for gf in MAPPINGS)


def kind(mapping, filtering):
    return f"wire:{mapping},{filtering},random"


class Matrix:
    def __init__(self):
        self.lab = Lab.anew(NAME)

    def up(self):
        first = kind("independent", "independent")
        self.lab.up(first, first, "drop", "af_packet", os.environ.get("PENSTOCK_BUILD"))

    def cell(self, client, gateway):
        """(good, words) of one pair of kinds."""
        lab = self.lab
        for process in ("client", "gateway", "dataplane"):
            lab.processes.stop(process)
        for host, (mapping, filtering) in (("cnat", client), ("gnat", gateway)):
            wire = WireNat(lab, host)
            wire.command(f"become {mapping},{filtering},random")
            wire.forget()
        for process in ("dataplane", "gateway", "client"):
            lab.start(process)
        answers = lab.directory / "ping"
        with answers.open("w") as file:
            ping = subprocess.Popen(["ip", "netns", "exec", lab.network.namespace("client"), "ping", "-n", "-i", "0.1",
                                     TARGET], stdout=file, stderr=subprocess.STDOUT)
        try:
            wait_until(lambda: self.path() != "none", 15, "a path at all")
            expected = "direct" if direct_is_possible(parse(kind(*client)), parse(kind(*gateway))) else "relayed"
            started = time.monotonic()
            if expected == "direct":
                wait_until(lambda: self.path() == "direct", DIRECT_WITHIN, "direct path")
            else:
                while time.monotonic() - started < STAYS_RELAYED:
                    if self.path() == "direct":
                        return False, "direct, which theory denies"
                    time.sleep(0.1)
            took = time.monotonic() - started
            # A path may be there before the first echo has come over it.
            wait_until(lambda: "time=" in answers.read_text(), ANSWERED_WITHIN, f"{expected}, but nothing came back")
        finally:
            ping.terminate()
            ping.wait(timeout=10)
        return True, f"{expected} after {took:.1f} s" if expected == "direct" else expected

    def path(self):
        answer = self.lab.penstock.ctl("client", "show", "peers", check=False) or {}
        return next((p["path"] for p in answer.get("peers", []) if p.get("session") == "up"), "none")


def main():
    cells = EVERYTHING if "--all" in sys.argv[1:] else SUBSET
    matrix = Matrix()
    good = True
    try:
        matrix.up()
        for client, gateway in cells:
            name = f"client {'/'.join(client)}, gateway {'/'.join(gateway)}"
            try:
                passed, words = matrix.cell(client, gateway)
            except LabError as error:
                passed, words = False, " | ".join(str(error).splitlines())
            print(f"PASS {name}  ({words})" if passed else f"FAIL {name}: {words}", flush=True)
            good &= passed
    except LabError as error:
        print(f"FAIL matrix: {' | '.join(str(error).splitlines())}", flush=True)
        good = False
    finally:
        if not good and matrix.lab.settings:
            matrix.lab.save_logs()
        if matrix.lab.settings:
            matrix.lab.down()
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
