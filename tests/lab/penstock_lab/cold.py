"""How long the first packet takes through a tunnel that is not there yet, beside its budget."""

import os
import pathlib
import statistics
import time

from . import topology as net
from .lab import Lab
from .meter import Meter

TICKS = os.sysconf("SC_CLK_TCK")
TARGET = "web.corp.example"
ALLOWANCE = 0.020  # seconds, of the budget
PAUSE = 2.5  # a client asks for a Resource once in two seconds, also after a restart
OUT_OF_THE_WAY = 0.2  # seconds: this process looks on only when the first packet must have arrived
RATE = 500  # packets a second: where the sender was kept from one, the machine was away


def round_trip(lab, host, address):
    """Median of ten pings, seconds."""
    text = lab.network.inside(host, "ping", "-n", "-i", "0.02", "-c", "10", address, capture=True)
    times = [float(line.rsplit("time=", 1)[1].split()[0]) for line in text.splitlines() if "time=" in line]
    return statistics.median(times) / 1000


def stolen():
    """Seconds of processor time that the hypervisor has given to others since the start, of all processors."""
    return int(pathlib.Path("/proc/stat").read_text().split(None, 9)[8]) / TICKS


def measure(lab):
    """Seconds from the first packet's sending to its arrival at the server, after a start of the client; None: it
    never arrived. For how long the machine kept the sender, which has real-time priority, from sending meanwhile. And
    what was stolen until this process looked, OUT_OF_THE_WAY later, also from the processor that the sender was not
    on."""
    lab.restart("client")
    time.sleep(PAUSE)
    meter = Meter(lab, TARGET, rate=RATE, download=0, ping=False).start(linger=1)
    try:
        before = stolen()
        time.sleep(OUT_OF_THE_WAY)
        meter.wait_flowing()
        taken = stolen() - before
        time.sleep(0.3)
        traffic = meter.finish()
    except BaseException:
        meter.abort()
        raise
    first = min(traffic.up.sent)
    if first not in traffic.up.arrived:
        return None, 0.0, taken
    sent, arrived = traffic.up.sent[first], traffic.up.arrived[first]
    return arrived - sent, max(0.0, traffic.up.machine_gap(sent, arrived + 2 / RATE) - 1 / RATE), taken


def cold_tunnel(arguments, repeat):
    lab = Lab.anew(arguments.name)
    lab.up(arguments.client_nat, arguments.gateway_nat, arguments.unexpected, arguments.driver, arguments.build)
    try:
        portal = round_trip(lab, "client", net.PORTAL)
        gateway_portal = round_trip(lab, "gw", net.PORTAL)
        # To the gateway's NAT by way of the internet: a relayed handshake goes through the relay in the middle of it.
        gateway = round_trip(lab, "client", net.GNAT_WAN)
        budget = portal + gateway_portal + 1.5 * gateway + ALLOWANCE
        times, away, taken = zip(*(measure(lab) for _ in range(repeat)))
    finally:
        lab.save_logs()
        lab.down()
    good = all(t is not None and t <= budget for t in times)
    known = [t for t in times if t is not None]
    slowest = max(range(repeat), key=lambda i: times[i] or 0.0)
    where = f"{arguments.client_nat}/{arguments.gateway_nat}, {arguments.unexpected}, {arguments.driver}"
    portal_ms, between_ms, gateway_ms, budget_ms = (t * 1000 for t in (portal, gateway_portal, gateway, budget))
    print(f"cold tunnel ({where}): first packet delivered after {max(known, default=float('nan')) * 1000:.1f} ms at "
          f"worst (machine away for {away[slowest] * 1000:.1f} of them, {taken[slowest] * 1000:.0f} ms of processor "
          f"time stolen), median {statistics.median(known) * 1000:.1f} ms of {len(times)}; budget {budget_ms:.1f} ms = "
          f"portal {portal_ms:.2f} + portal to gateway {between_ms:.2f} + 1.5 x gateway {gateway_ms:.2f} + 20"
          f"{'' if good else '   MISSED'}", flush=True)
    return {"times": times, "machine": away, "stolen": taken, "budget": budget, "portal": portal,
            "portal_gateway": gateway_portal, "gateway": gateway, "ok": good}
