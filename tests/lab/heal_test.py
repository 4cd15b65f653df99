#!/usr/bin/python3
"""The healing table's goals, a few repetitions of every row that is quick enough: networks and drivers are spread over
the rows, so that each kind of NAT, each answer to the unexpected and both drivers occur. Besides: the outage that protocol
1.0 has after a reset, and the first packet's budget (the median).

`scripts/heal --acceptance` is the whole of it, worst case and all. It has the restart of the data plane too, whose second
is mostly the machine's for loading a program (tests/interop/warm_restart_test.py shows what survives it)."""

import os
import statistics
import sys
import time

from heal import TARGET, RowRun, judge, parser
from penstock_lab import outage
from penstock_lab.cold import cold_tunnel
from penstock_lab.rows import BY_NAME
from penstock_lab.topology import LabError

REPEAT = 2
#        row                  client's NAT  gateway's NAT  the unexpected  driver
CASES = (("gateway-nat",       "preserving", "preserving", "drop",   "af_packet"),
         ("gateway-nat",       "random",     "random",     "reject", "af_xdp"),
         ("client-nat",        "preserving", "preserving", "reject", "af_xdp"),
         ("client-nat",        "random",     "preserving", "drop",   "af_packet"),
         ("both-nats",         "preserving", "preserving", "drop",   "af_xdp"),
         ("both-nats",         "random",     "random",     "drop",   "af_packet"),
         ("mapping-gateway",   "preserving", "preserving", "drop",   "af_packet"),
         ("mapping-client",    "preserving", "random",     "drop",   "af_xdp"),
         ("roam",              "preserving", "preserving", "drop",   "af_packet"),
         ("relay-direct",      "preserving", "preserving", "drop",   "af_packet"),
         ("relay-restart",     "random",     "random",     "drop",   "af_packet"),
         ("relay-gone",        "random",     "random",     "reject", "af_xdp"),
         ("control-killed",    "preserving", "random",     "drop",   "af_packet"),
         ("gateway-lost",      "random",     "preserving", "drop",   "af_packet"))


def arguments(client_nat="preserving", gateway_nat="preserving", unexpected="drop", driver="af_packet"):
    return parser().parse_args(["--client-nat", client_nat, "--gateway-nat", gateway_nat, "--unexpected", unexpected,
                                "--driver", driver, "--name", "healtest",
                                *(["--build", os.environ["PENSTOCK_BUILD"]] if "PENSTOCK_BUILD" in os.environ else [])])


def heals(row, *network):
    run = RowRun(row, arguments(*network))
    try:
        done = run.run(REPEAT)
    finally:
        run.end()
    problems, stalls = [], []
    for result in done["results"]:
        # The time that the machine kept the senders themselves from sending is not the tunnel's.
        result = result | {"stall": result["stall"] - result["machine"]}
        stalls.append(f"{result['stall'] * 1000:.0f}")
        problems += judge(row, done["rtt"], result)
    if problems:
        raise LabError(f"{'; '.join(problems)} ({done['results'][0]['path']}, stalls {' '.join(stalls)} ms)")


def outage_until_a_query():
    if not outage.run(BY_NAME["gateway-nat"], TARGET, arguments())["ok"]:
        raise LabError("protocol 1.0 did not behave as it does")


def first_packet():
    cold = cold_tunnel(arguments(), 5)
    if None in cold["times"] or statistics.median(cold["times"]) > cold["budget"]:
        raise LabError(f"first packets after {cold['times']} s, budget {cold['budget']:.4f} s")


def report(name, action, *details):
    started = time.monotonic()
    try:
        action(*details)
    except (LabError, OSError) as error:
        print(f"FAIL {name}: {' | '.join(str(error).splitlines())}", flush=True)
        return False
    print(f"PASS {name}  ({time.monotonic() - started:.1f} s)", flush=True)
    return True


def main():
    good = True
    for name, *network in CASES:
        row = BY_NAME[name]
        good &= report(f"{row.title} ({', '.join(network)})", heals, row, *network)
    good &= report("protocol 1.0: an outage until somebody asks DNS", outage_until_a_query)
    good &= report("first packet of a cold tunnel within its budget", first_packet)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
