#!/usr/bin/python3
"""Rows of the healing table, with their goals asserted: tunnels heal while applications do not notice.

Times need the machine. A repetition during which a meter itself was kept from sending says nothing about the tunnel: it is
printed and does not count, and the row is run again, at most twice.
"""

import contextlib
import io
import os
import statistics
import sys
import time

from heal import RowRun, parser, print_row
from penstock_lab.cold import cold_tunnel
from penstock_lab.lab import Lab
from penstock_lab.rows import BY_NAME
from penstock_lab.topology import LabError

NAME = "healtest"
DISTURBED = 0.05  # seconds that a meter's sender was kept from sending
AGAIN = 2
REPEAT = 3

# (row, client's NAT, gateway's NAT, unexpected packets, driver)
CASES = (
    ("gateway-nat", "preserving", "preserving", "drop", "af_packet"),
    ("gateway-nat", "random", "random", "reject", "af_packet"),
    ("client-nat", "preserving", "preserving", "reject", "af_xdp"),
    ("both-nats", "random", "preserving", "drop", "af_packet"),
    ("relay-direct", "preserving", "preserving", "drop", "af_packet"),
    ("control-killed", "preserving", "preserving", "drop", "af_packet"),
)


def arguments_for(client_nat, gateway_nat, unexpected, driver):
    words = ["--client-nat", client_nat, "--gateway-nat", gateway_nat, "--unexpected", unexpected, "--driver", driver,
             "--name", NAME]
    if os.environ.get("PENSTOCK_BUILD"):
        words += ["--build", os.environ["PENSTOCK_BUILD"]]
    return parser().parse_args(words)


def run_case(row, client_nat, gateway_nat, unexpected, driver):
    """(good, words)"""
    disturbed = []
    for _ in range(1 + AGAIN):
        run = RowRun(BY_NAME[row], arguments_for(client_nat, gateway_nat, unexpected, driver))
        try:
            report = run.run(REPEAT)
        finally:
            run.end()
        if report["duplicates"] or report["download_wrong"]:
            return False, f"{report['duplicates']} packets twice, download wrong: {report['download_wrong']}"
        counted = [r for r in report["results"] if r["machine"] <= DISTURBED]
        bad = [r for r in counted if r["problems"]]
        if bad:
            text = io.StringIO()
            print_row(report, text)
            return False, " | ".join(text.getvalue().splitlines())
        if counted:
            words = (f"lost {max(r['lost_total'] for r in counted)}, longest stall "
                     f"{max(r['stall'] for r in counted) * 1000:.0f} ms of {len(counted)}")
            return True, words + "".join(f"; not counted: machine away for {ms:.0f} ms" for ms in disturbed)
        disturbed += [r["machine"] * 1000 for r in report["results"]]
    return False, f"the machine was away {len(disturbed)} times of {len(disturbed)}, the longest {max(disturbed):.0f} ms"


def report(name, action):
    """Runs one test; prints its line. True when it passed."""
    started = time.monotonic()
    try:
        good, words = action()
    except (LabError, AssertionError) as error:
        good, words = False, " | ".join(str(error).splitlines())
    print(f"PASS {name}  ({words}; {time.monotonic() - started:.0f} s)" if good else f"FAIL {name}: {words}", flush=True)
    return good


def cold():
    """The median counts here: one slow scheduling of a thread among seven processes is a third of the budget."""
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        result = cold_tunnel(arguments_for("random", "random", "drop", "af_packet"), 5)
    times = [t for t in result["times"] if t is not None]
    return len(times) == 5 and statistics.median(times) <= result["budget"], text.getvalue().strip()


def main():
    stale = Lab(NAME)
    if stale.network.exists() or stale.directory.exists():
        stale.down()  # an earlier run was cut off
    good = True
    for case in CASES:
        row, client_nat, gateway_nat, unexpected, driver = case
        good &= report(f"{row} heals: NATs {client_nat}/{gateway_nat}, {unexpected}, {driver}",
                       lambda c=case: run_case(*c))
    good &= report("a cold tunnel's first packet within its budget (median)", cold)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
