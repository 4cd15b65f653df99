"""The failure that started it all, with protocol 1.0: after a reset nothing passes until somebody asks DNS again."""

import time

from . import counters
from .lab import Lab
from .meter import Meter
from .process import wait_until
from .topology import LabError

RESOLVER = "100.100.111.1"
WAIT = 20.0  # seconds after the reset without any DNS query; the tunnel is given up 15 s after its last answer


def run(row, target, arguments):
    """Prints what happened and returns it; `ok`: the outage was there, and the query ended it."""
    lab = Lab.anew(arguments.name)
    lab.up(arguments.client_nat, arguments.gateway_nat, arguments.unexpected, arguments.driver, arguments.build,
           options={"client_arguments": ["--protocol", "1.0"]})
    try:
        counters.install(lab.network)
        meter = Meter(lab, target, rate=row.rate, download=0).start()
        try:
            meter.wait_flowing()
            time.sleep(3)
            asked = counters.dns_queries(lab.network)
            event = time.time()
            lab.nat_reset({"gateway-nat": "gateway", "client-nat": "client", "both-nats": "both"}[row.name])
            time.sleep(WAIT)
            by_themselves = counters.dns_queries(lab.network) - asked
            size = (meter.directory / "down.received").stat().st_size
            query = time.time()
            # As a resolver library asks: again after five seconds without an answer.
            lab.network.inside("client", "dig", f"@{RESOLVER}", target, "A", "+tries=4", "+time=5", check=False)
            try:
                wait_until(lambda: (meter.directory / "down.received").stat().st_size > size, 15, "traffic again")
                time.sleep(1)
            except LabError:
                pass  # the numbers say so
            traffic = meter.finish()
        except BaseException:
            meter.abort()
            raise
    finally:
        lab.save_logs()
        lab.down()
    arrivals = [at for flow in (traffic.up, traffic.down) for at in flow.arrived.values()]
    last = max((at for at in arrivals if at < query), default=event)
    back = min((at for at in arrivals if at >= query), default=None)
    silent = query - max(last, event)
    lost = sum(1 for flow in (traffic.up, traffic.down) for n, at in flow.sent.items()
               if event <= at < query and n not in flow.arrived)
    ok = silent > WAIT - 5 and back is not None and by_themselves == 0
    print(f"{row.name}, protocol 1.0: {lost} packets lost; nothing for {silent:.1f} s, until somebody asked DNS; "
          + (f"again {(back - query) * 1000:.0f} ms after the query" if back is not None else "and not then either")
          + ("" if ok else "   UNEXPECTED"), flush=True)
    return {"row": row.name, "protocol": "1.0", "lost": lost, "silent": silent,
            "back_after": None if back is None else back - query, "ok": ok}
