"""A long time of real processes under resets: nothing lost, nothing broken, nothing growing."""

import argparse
import itertools
import json
import pathlib
import re
import sys
import time

from penstock_lab import counters
from penstock_lab.lab import DRIVERS, Lab
from penstock_lab.meter import Meter
from penstock_lab.topology import LabError

TARGET = "web.corp.example"
WHICH = ("gateway", "client", "both")
WATCHED = ("client", "portal", "gateway", "dataplane")
GROWTH = 1.25  # of resident memory, from a minute after the start to the end


def seconds(text):
    match = re.fullmatch(r"(\d+)(s|m|h)", text)
    if not match:
        raise argparse.ArgumentTypeError(f"not a duration such as 30s, 10m or 2h: {text}")
    return int(match.group(1)) * {"s": 1, "m": 60, "h": 3600}[match.group(2)]


def footprint(lab, process):
    """(resident KiB, open files)"""
    pid = lab.processes.pid(process)
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    return (int(re.search(r"VmRSS:\s+(\d+)", status).group(1)), len(list(pathlib.Path(f"/proc/{pid}/fd").iterdir())))


class Soak:
    def __init__(self, arguments):
        self.arguments = arguments
        self.lab = Lab.anew(arguments.name)

    def run(self):
        arguments, lab = self.arguments, self.lab
        lab.up(arguments.client_nat, arguments.gateway_nat, arguments.unexpected, arguments.driver, arguments.build)
        counters.install(lab.network)
        meter = Meter(lab, TARGET, rate=arguments.rate).start()
        try:
            meter.wait_flowing()
            asked = counters.dns_queries(lab.network)
            events = self._storm()
            traffic = meter.finish()
        except BaseException:
            meter.abort()
            raise
        dns = counters.dns_queries(lab.network) - asked
        resets = counters.tcp_resets(lab.network)
        after = {process: footprint(lab, process) for process in WATCHED}
        return self._report(traffic, events, dns, resets, after)

    def _storm(self):
        """Resets, one kind after the other, until time is up; says so once a minute."""
        begin = time.monotonic()
        end = begin + self.arguments.real
        events, self.before, said = [], None, begin
        for which in itertools.cycle(WHICH):
            pause_until = time.monotonic() + self.arguments.reset_every
            while time.monotonic() < min(pause_until, end):
                time.sleep(min(0.5, max(0.0, min(pause_until, end) - time.monotonic())))
                if self.before is None and time.monotonic() - begin > min(60, self.arguments.real / 4):
                    self.before = {process: footprint(self.lab, process) for process in WATCHED}
                if time.monotonic() - said > 60:
                    said = time.monotonic()
                    print(f"  {(said - begin) / 60:.0f} min, {len(events)} resets", flush=True)
                for process in WATCHED:
                    if not self.lab.processes.alive(process):
                        raise LabError(f"{process} ended:\n{self.lab.processes.tail(process)}")
            if time.monotonic() >= end:
                time.sleep(3)  # what the last reset held up
                return events
            events.append((which, time.time()))
            self.lab.nat_reset(which)

    def _report(self, traffic, events, dns, resets, after):
        problems = []
        until = traffic.summary["last_sent"] / 1e9
        sent = sum(len(flow.sent) for flow in traffic.flows)
        lost = {flow.name: sum(1 for n in flow.sent if n not in flow.arrived) for flow in traffic.flows}
        print(f"{'reset':8} {'n':>4} {'lost':>6} {'stall ms: worst':>16} {'median':>7}")
        for which in WHICH:
            stalls, losses = [], 0
            for (kind, at), following in itertools.zip_longest(events, events[1:]):
                if kind != which:
                    continue
                end = min(at + min(10, self.arguments.reset_every), following[1] if following else until)
                windows = [flow.window(at - 0.2, end) for flow in traffic.flows]
                losses += sum(len(w.lost) for w in windows)
                stalls.append(max(w.stall for w in windows))
            if stalls:
                print(f"{which:8} {len(stalls):4} {losses:6} {max(stalls) * 1000:16.0f} "
                      f"{sorted(stalls)[len(stalls) // 2] * 1000:7.0f}")
        print(f"{sent} packets, lost: {lost}; twice: {sum(flow.duplicates for flow in traffic.flows)}; "
              f"DNS queries: {dns}; TCP resets: {resets}; download: {traffic.summary['download_bytes']} bytes"
              f"{', broken' if traffic.download_broken else ''}{', wrong' if traffic.summary['download_wrong'] else ''}")
        print(f"{'process':10} {'KiB before':>11} {'after':>9} {'files before':>13} {'after':>6}")
        for process in WATCHED:
            (memory, files), (memory_after, files_after) = self.before[process], after[process]
            print(f"{process:10} {memory:11} {memory_after:9} {files:13} {files_after:6}")
            if memory_after > memory * GROWTH + 4096:
                problems.append(f"{process} grew from {memory} to {memory_after} KiB")
            if files_after > files + 8:
                problems.append(f"{process} has {files_after} open files, had {files}")
        problems += [f"{count} packets lost ({name})" for name, count in lost.items() if count]
        if dns:
            problems.append(f"{dns} DNS queries")
        if resets or traffic.download_broken or traffic.summary["download_wrong"]:
            problems.append("TCP broken")
        if self.arguments.json:
            self.arguments.json.write_text(json.dumps({
                "seconds": self.arguments.real, "resets": len(events), "packets": sent, "lost": lost, "dns": dns,
                "tcp_resets": resets, "before": self.before, "after": after, "problems": problems}, indent=1) + "\n")
        return problems


def main():
    options = argparse.ArgumentParser(prog="scripts/soak --real")
    options.add_argument("--real", type=seconds, required=True, metavar="DURATION", help="how long, such as 30m")
    options.add_argument("--reset-every", type=seconds, default=30, metavar="DURATION")
    options.add_argument("--rate", type=int, default=200, help="packets a second each way (default: 200)")
    options.add_argument("--client-nat", metavar="KIND", default="preserving")
    options.add_argument("--gateway-nat", metavar="KIND", default="preserving")
    options.add_argument("--unexpected", choices=("drop", "reject"), default="drop")
    options.add_argument("--driver", choices=[d for d in DRIVERS if d != "tap"], default="af_packet")
    options.add_argument("--json", type=pathlib.Path, metavar="FILE")
    options.add_argument("--build")
    options.add_argument("--name", default="soak")
    soak = Soak(options.parse_args())
    try:
        problems = soak.run()
    except LabError as error:
        problems = [str(error)]
    finally:
        if soak.lab.settings and soak.lab.network.exists():
            soak.lab.save_logs()
            soak.lab.down()
    for problem in problems:
        print(f"soak: {problem}", file=sys.stderr)
    print("soak: failed" if problems else "soak: ok")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
