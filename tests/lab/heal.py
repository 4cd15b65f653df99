"""The healing table in the lab: every row with real processes, what was lost and how long it took beside the goals."""

import argparse
import concurrent.futures
import json
import math
import pathlib
import queue
import statistics
import sys
import threading
import time

from penstock_lab import counters, nat, outage, timeline
from penstock_lab import topology as net
from penstock_lab.capture import Capture, sealed_size
from penstock_lab.cold import cold_tunnel
from penstock_lab.kinds import direct_is_possible, parse
from penstock_lab.lab import DRIVERS, Lab
from penstock_lab.meter import Meter
from penstock_lab.process import wait_until
from penstock_lab.rows import BY_NAME, COLD, QUICK, ROWS, Scene
from penstock_lab.topology import LabError

TARGET = "web.corp.example"
RESETS = ("gateway-nat", "client-nat", "both-nats")
DPDK_DRIVERS = tuple(driver for driver in DRIVERS if driver != "tap")
NAT_KINDS = ("preserving", "random")  # of ports: what decides whether two NATs let a direct path be
BEFORE = 0.5  # seconds of the window before the event
STARTS = threading.Lock()  # one lab starts at a time: together they would take longer than any of them may
ACCEPTED = 20  # repetitions of a row that acceptance asks for, on each driver


def outcome(row, traffic, event, counted):
    """What one repetition lost; `event`: when it began, `counted`: differences of the counters."""
    begin, end = event - BEFORE, event + row.observe
    windows = {flow.name: flow.window(begin, end) for flow in traffic.flows if flow.sent}
    lost = {name: len(window.lost) for name, window in windows.items()}
    stalls = {name: window.stall for name, window in windows.items()}
    late = [traffic_flow.sent[n] - event for traffic_flow in traffic.flows if traffic_flow.sent
            for n in windows[traffic_flow.name].lost]
    return {
        "lost": lost, "lost_total": sum(lost.values()), "lost_span": max(late) - min(min(late), 0) if late else 0.0,
        "stalls": stalls, "stall": max(stalls.values(), default=0.0),
        "download_stall": traffic.download_stall(event, end) if row.download else 0.0,
        "machine": max(traffic.up.machine_gap(begin, end), traffic.down.machine_gap(begin, end)) if row.rate >= 500
        else 0.0, **counted,
    }


def judge(row, rtt, result):
    """Why this repetition misses the goal; empty when it does not."""
    problems = []
    if row.goal_lost is not None and result["lost_total"] > row.goal_lost:
        problems.append(f"lost {result['lost']}")
    if row.lost_within is not None and result["lost_span"] > row.lost_within:
        problems.append(f"lost packets over {result['lost_span']:.2f} s")
    if row.goal_stall is not None and result["stall"] > row.goal_stall(rtt):
        problems.append(f"stall {result['stall'] * 1000:.0f} ms")
    if result["dns"] != 0:
        problems.append(f"{result['dns']} DNS queries")
    if not row.may_break_tcp and (result["resets"] != 0 or result["broken"]):
        problems.append("TCP broken")
    return problems


class RowRun:
    """One row: a lab, traffic through it, the event again and again."""

    def __init__(self, row, arguments):
        self.row, self.arguments = row, arguments
        pair = row.nats or (arguments.client_nat, arguments.gateway_nat)
        self.client_nat, self.gateway_nat = pair
        self.direct = direct_is_possible(*(parse(kind) for kind in pair))
        self.lab = Lab.anew(arguments.name)
        self.missed = False

    def run(self, repeat):
        row, arguments, lab = self.row, self.arguments, self.lab
        with STARTS:
            lab.up(self.client_nat, self.gateway_nat, arguments.unexpected, arguments.driver, arguments.build,
                   parts=row.parts)
        counters.install(lab.network)
        if "relay2" in row.parts:
            counters.install_relay_counters(lab.network, net.RELAY, net.RELAY2, net.GNAT_WAN)
        captures = []
        if arguments.svg:
            captures = [Capture(lab, "client", "eth0", net.CLIENT), Capture(lab, "gnat", "to-gw", net.GW_WAN)]
            for capture in captures:
                capture.start()
        # In a drawing packets are told apart by their size: 100 bytes of payload are like nothing else.
        meter = Meter(lab, TARGET, rate=row.rate, download=row.download, ping=row.ping,
                      size=100 if arguments.svg else 64).start()
        scene = Scene(lab, meter, row)
        marks = []
        try:
            meter.wait_flowing()
            for _ in range(repeat):
                self._settle(scene)
                marks.append(self._once(scene))
            traffic = meter.finish()
        except BaseException:
            meter.abort()
            for capture in captures:
                capture.abort()
            raise
        if captures:
            self._draw(traffic, marks, *(capture.finish() for capture in captures))
        rtt = self._rtt(traffic, marks)
        results = [outcome(row, traffic, mark["event"], mark["counted"]) | {
            "path": mark["path"], "event": mark["event"],
            "broken": traffic.download_broken and row.download > 0} for mark in marks]
        for result in results:
            result["problems"] = judge(row, rtt, result)
            self.missed |= bool(result["problems"])
        return {"row": row.name, "title": row.title, "client_nat": self.client_nat, "gateway_nat": self.gateway_nat,
                "unexpected": arguments.unexpected, "driver": arguments.driver, "rtt": rtt, "results": results,
                "duplicates": sum(flow.duplicates for flow in traffic.flows),
                "download_wrong": traffic.summary["download_wrong"]}

    def _draw(self, traffic, marks, client_seen, gateway_seen):
        """The repetition that took longest."""
        row = self.row
        event = max(marks, key=lambda mark: outcome(row, traffic, mark["event"], {})["stall"])["event"]
        version = traffic.summary["ip_version"]
        size = sealed_size(100, version)
        up = timeline.points(traffic.up, client_seen, gateway_seen, size)
        down = timeline.points(traffic.down, gateway_seen, client_seen, size)
        title = f"{row.title}; NATs {self.client_nat}/{self.gateway_nat}, {self.arguments.driver}"
        self.arguments.svg.write_text(timeline.draw(title, event, client_seen, gateway_seen, up, down))

    def _settle(self, scene):
        """The path that these NATs allow is in use, and nothing has happened for a while."""
        wanted = "direct" if self.direct else "relayed"
        wait_until(lambda: scene.peer() != {}, 20, "session of the client")
        try:
            wait_until(lambda: scene.path() == wanted, 45, f"path {wanted}")
        except LabError:
            pass  # the row is run on what there is, and says so
        time.sleep(self.arguments.settle)

    def _once(self, scene):
        row, lab = self.row, self.lab
        if row.prepare is not None:
            row.prepare(scene)
        path = scene.path()
        before = self._counters()
        event = row.event(scene)
        remaining = event + row.observe + 0.2 - time.time()
        if remaining > 0:
            time.sleep(remaining)
        after = self._counters()
        if row.rate >= 100 and not scene.flowing():
            lab.note_state("nothing reaches the client")
        if row.restore is not None:
            row.restore(scene)
        return {"event": event, "path": path, "counted": {key: after[key] - before[key] for key in after}}

    def _counters(self):
        network = self.lab.network
        return {"dns": counters.dns_queries(network), "resets": counters.tcp_resets(network)}

    @staticmethod
    def _rtt(traffic, marks):
        """Of the tunnel, undisturbed: median of both directions' delays before the first event."""
        first = marks[0]["event"] - 0.2
        delays = [statistics.median(values) for flow in (traffic.up, traffic.down)
                  if (values := [flow.arrived[n] - at for n, at in flow.sent.items()
                                 if at < first and n in flow.arrived])]
        return sum(delays)

    def end(self):
        if self.lab.settings and self.lab.network.exists():
            self.lab.save_logs()
            if self.missed:
                self.lab.save_logs(f"missed-{self.row.name}")
            self.lab.down()


HEADING = (f"{'row':18} {'NATs':21} {'refused':7} {'driver':9} {'path':8} {'n':>3} {'lost':>5} {'goal':>5} {'stall ms':>9} "
           f"{'goal ms':>8} {'median':>7} {'DNS':>4} {'RST':>4} {'machine':>8}  verdict")


def print_row(report, out=sys.stdout):
    row = BY_NAME[report["row"]]
    results = report["results"]
    worst = max(results, key=lambda r: (len(r["problems"]) > 0, r["stall"]))
    goal = row.goal_stall(report["rtt"])
    missed = [r for r in results if r["problems"]]
    paths = "/".join(sorted({r["path"] for r in results}))
    nats = f"{report['client_nat']}/{report['gateway_nat']}"
    print(f"{row.name:18} {nats:21} {report['unexpected']:7} {report['driver']:9} {paths:8} {len(results):3} "
          f"{max(r['lost_total'] for r in results):5} "
          f"{'-' if row.goal_lost is None else row.goal_lost:>5} {max(r['stall'] for r in results) * 1000:9.0f} "
          f"{goal * 1000:8.0f} {statistics.median(r['stall'] for r in results) * 1000:7.0f} "
          f"{max(r['dns'] for r in results):4} {max(r['resets'] for r in results):4} "
          f"{max(r['machine'] for r in results) * 1000:8.0f}  "
          f"{'ok' if not missed else f'{len(missed)} of {len(results)} missed'}", file=out, flush=True)
    if missed:
        print(f"{'':18} worst: {'; '.join(worst['problems'])}", file=out, flush=True)


def settings_of(row, arguments):
    """The arguments of every lab that a row is run in: what was asked for, or all kinds of NATs and drivers."""
    drivers = DPDK_DRIVERS if arguments.driver == "all" else (arguments.driver,)
    if not arguments.all_nats:
        kinds = [(arguments.client_nat, arguments.gateway_nat, arguments.unexpected)]
    else:
        pairs = [row.nats] if row.nats else [(c, g) for c in NAT_KINDS for g in NAT_KINDS]
        kinds = [(c, g, unexpected) for c, g in pairs for unexpected in nat.UNEXPECTED]
    for driver in drivers:
        for client_nat, gateway_nat, unexpected in kinds:
            yield argparse.Namespace(**vars(arguments) | {"driver": driver, "client_nat": client_nat,
                                                          "gateway_nat": gateway_nat, "unexpected": unexpected})


def print_summary(reports, out=sys.stdout):
    """Over all networks, one line a row and driver."""
    for name, driver in dict.fromkeys((report["row"], report["driver"]) for report in reports):
        results = [result for report in reports if (report["row"], report["driver"]) == (name, driver)
                   for result in report["results"]]
        missed = sum(1 for result in results if result["problems"])
        print(f"{name:18} {driver:9} {len(results):4} repetitions: worst {max(r['lost_total'] for r in results)} lost, longest "
              f"stall {max(r['stall'] for r in results) * 1000:.0f} ms; "
              f"{'every goal met' if not missed else f'{missed} missed'}", file=out, flush=True)


def repetitions(row, arguments):
    """Of one network: as many as asked for, or what makes ACCEPTED of all networks of a driver."""
    if not arguments.acceptance:
        return arguments.repeat
    networks = sum(1 for settings in settings_of(row, arguments) if settings.driver == DPDK_DRIVERS[0])
    return math.ceil(ACCEPTED / networks)


def run_row(row, arguments, out=sys.stdout):
    """A row in all its networks, `row.labs` of them at a time; prints each as it is done and returns the reports."""
    labs = min(row.labs, arguments.labs)
    names = queue.SimpleQueue()
    for number in range(labs):
        names.put(arguments.name if labs == 1 else f"{arguments.name}{number}")
    repeat = repetitions(row, arguments)

    def one(settings):
        name = names.get()
        try:
            run = RowRun(row, argparse.Namespace(**vars(settings) | {"name": name}))
            try:
                return run.run(repeat)
            finally:
                run.end()
        finally:
            names.put(name)

    reports = []
    with concurrent.futures.ThreadPoolExecutor(labs) as pool:
        for report in pool.map(one, settings_of(row, arguments)):
            reports.append(report)
            print_row(report, out)
    return reports


def run_rows(rows, arguments, out=sys.stdout):
    """Runs rows and prints each as it is done; returns the reports."""
    reports = []
    print("Worst of n counts; `refused`: what a NAT does with unexpected packets", file=out)
    print(HEADING, file=out, flush=True)
    for row in rows:
        reports += run_row(row, arguments, out)
        save(arguments, reports, None)
    if len(reports) > len(rows):
        print_summary(reports, out)
    return reports


def save(arguments, reports, cold):
    if arguments.json:
        arguments.json.write_text(json.dumps({"rows": reports, "cold": cold}, indent=1) + "\n")


def show_outages(names, arguments):
    try:
        outages = [outage.run(BY_NAME[name], TARGET, arguments) for name in names]
    except LabError as error:
        print(f"heal: {error}", file=sys.stderr)
        return 1
    if arguments.json:
        arguments.json.write_text(json.dumps({"outages": outages}, indent=1) + "\n")
    return 0 if all(result["ok"] for result in outages) else 1


def parser():
    options = argparse.ArgumentParser(prog="scripts/heal", description="What heals, how fast, and what it costs.")
    options.add_argument("--row", action="append", default=[], choices=[*(row.name for row in ROWS), "cold"],
                         help="only this row (cold: the first packet's budget); may be repeated (default: all that take "
                         "less than a minute a repetition)")
    options.add_argument("--repeat", type=int, default=3, help="repetitions; 20 for acceptance (default: 3)")
    options.add_argument("--driver", choices=[*DPDK_DRIVERS, "all"], default="af_packet",
                         help="the data plane's ports; all: one after the other")
    options.add_argument("--all-nats", action="store_true", help="each row with port-preserving and random NATs on either "
                         "side, dropping and rejecting: for acceptance, with --driver all")
    options.add_argument("--client-nat", metavar="KIND", default="preserving")
    options.add_argument("--gateway-nat", metavar="KIND", default="preserving")
    options.add_argument("--unexpected", choices=nat.UNEXPECTED, default="drop")
    options.add_argument("--settle", type=float, default=1.5, help="seconds of calm before each event (default: 1.5)")
    options.add_argument("--quick", action="store_true", help="a few rows, once each")
    options.add_argument("--acceptance", action="store_true", help=f"every row, the slow ones too, with all NATs and both "
                         f"drivers, {ACCEPTED} repetitions or more of each row and driver: two hours")
    options.add_argument("--labs", type=int, default=8, metavar="N",
                         help="at most so many labs at once, for rows that only wait (default: 8)")
    options.add_argument("--protocol", choices=("1.0", "1.1"), default="1.1",
                         help="1.0: the client that needs a DNS query; shows the outage of the NAT rows")
    options.add_argument("--svg", type=pathlib.Path, metavar="FILE",
                         help="draw the worst repetition of the row: each packet, its way, what changed when")
    options.add_argument("--json", type=pathlib.Path, metavar="FILE", help="every repetition, as JSON")
    options.add_argument("--build")
    options.add_argument("--name", default="heal", help="the lab's instance")
    return options


def main():
    arguments = parser().parse_args()
    if arguments.svg and len(arguments.row) != 1:
        parser().error("--svg draws one --row")
    if arguments.acceptance:
        arguments.all_nats, arguments.driver = True, "all"
    names = arguments.row or (QUICK if arguments.quick else
                              [row.name for row in ROWS if arguments.acceptance or not row.slow])
    if (arguments.all_nats or arguments.driver == "all") and (arguments.svg or arguments.protocol == "1.0"):
        parser().error("--svg and --protocol 1.0 show one network")
    if arguments.protocol == "1.0":
        names = [name for name in names if name in RESETS]
        if not names:
            parser().error(f"--protocol 1.0 knows the rows {' '.join(RESETS)}")
    started = time.monotonic()
    if arguments.protocol == "1.0":
        return show_outages(names, arguments)
    try:
        reports = run_rows([BY_NAME[name] for name in names if name != "cold"], arguments)
        cold = None
        if "cold" in names or not arguments.row:
            colds = [cold_tunnel(settings, repetitions(COLD, arguments)) for settings in settings_of(COLD, arguments)]
            cold = max(colds, key=lambda c: (not c["ok"], max((t for t in c["times"] if t is not None), default=0)))
    except LabError as error:
        print(f"heal: {error}", file=sys.stderr)
        return 1
    save(arguments, reports, cold)
    missed = [report["row"] for report in reports if any(r["problems"] for r in report["results"])]
    if cold is not None and not cold["ok"]:
        missed.append("cold tunnel")
    print(f"{time.monotonic() - started:.0f} s; " + (f"goals missed: {' '.join(missed)}" if missed else "all goals met"))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
