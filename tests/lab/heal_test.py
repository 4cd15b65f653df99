#!/usr/bin/python3
"""Rows of the healing table, with their goals asserted: tunnels heal while applications do not notice.

Timing needs the machine. A repetition during which the meters themselves were kept waiting says nothing about the
tunnel: the row is run again, at most twice, and the line says so.
"""

import contextlib
import io
import os
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
    runs = 0
    while True:
        runs += 1
        run = RowRun(BY_NAME[row], arguments_for(client_nat, gateway_nat, unexpected, driver))
        try:
            report = run.run(2)
        finally:
            run.end()
        bad = [r for r in report["results"] if r["problems"]]
        words = (f"lost {max(r['lost_total'] for r in report['results'])}, longest stall "
                 f"{max(r['stall'] for r in report['results']) * 1000:.0f} ms, run {runs}")
        if report["duplicates"] or report["download_wrong"]:
            return False, f"{words}; {report['duplicates']} packets twice, download wrong: {report['download_wrong']}"
        if not bad:
            return True, words
        text = io.StringIO()
        print_row(report, text)
        if runs > AGAIN or not any(r["machine"] > DISTURBED for r in bad):
            return False, f"{words}: {' | '.join(text.getvalue().splitlines())}"


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
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        result = cold_tunnel(arguments_for("random", "random", "drop", "af_packet"), 3)
    return result["ok"], text.getvalue().strip()


def main():
    stale = Lab(NAME)
    if stale.network.exists() or stale.directory.exists():
        stale.down()  # an earlier run was cut off
    good = True
    for case in CASES:
        row, client_nat, gateway_nat, unexpected, driver = case
        good &= report(f"{row} heals: NATs {client_nat}/{gateway_nat}, {unexpected}, {driver}",
                       lambda c=case: run_case(*c))
    good &= report("a cold tunnel's first packet within its budget", cold)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
