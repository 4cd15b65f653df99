"""`scripts/lab`: the verbs on the command line."""

import argparse
import os
import signal
import sys

from . import nat
from .lab import DRIVERS, Lab
from .penstock import ALL_PROCESSES
from .topology import ALL_HOSTS, PARTS, LabError


def parser():
    top = argparse.ArgumentParser(prog="scripts/lab", description="A network of namespaces with real processes.")
    top.add_argument("--name", default="lab", help="instance; several may run side by side (default: lab)")
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")

    up = verbs.add_parser("up", help="build the network and start everything")
    up.add_argument("--nat", metavar="KIND", help="kind of both NATs: preserving (default), random, or "
                    "wire:MAPPING,FILTERING,PORTS[,...] (tests/lab/wire/spec.h)")
    up.add_argument("--client-nat", metavar="KIND")
    up.add_argument("--gateway-nat", metavar="KIND")
    up.add_argument("--unexpected", choices=nat.UNEXPECTED, default="drop",
                    help="what a NAT does with packets it does not expect (default: drop)")
    up.add_argument("--driver", choices=DRIVERS, default="af_packet")
    up.add_argument("--build", help="build directory (default: build)")
    up.add_argument("--without", action="append", default=[], choices=ALL_PROCESSES, help="leave a process out")
    up.add_argument("--with", dest="parts", action="append", default=[], choices=PARTS,
                    help="what the network has besides; may be repeated")

    verbs.add_parser("down", help="end everything, leave nothing behind")
    verbs.add_parser("status", help="what runs")
    inside = verbs.add_parser("exec", help="run a command on a host: exec HOST -- CMD ...")
    inside.add_argument("host", choices=ALL_HOSTS)
    inside.add_argument("command", nargs=argparse.REMAINDER)
    reset = verbs.add_parser("nat-reset", help="forget every mapping; new ports afterwards")
    reset.add_argument("which", choices=("gateway", "client", "both"))
    for verb in ("start", "restart"):
        verbs.add_parser(verb, help=f"{verb} a process").add_argument("process")
    kill = verbs.add_parser("kill", help="send a signal to a process")
    kill.add_argument("process")
    kill.add_argument("--signal", default="9", help="number or name (default: 9)")
    capture = verbs.add_parser("capture", help="tcpdump on a host's interface, until interrupted")
    capture.add_argument("host", choices=ALL_HOSTS)
    capture.add_argument("interface")
    capture.add_argument("filter", nargs=argparse.REMAINDER)
    verbs.add_parser("logs", help="print a process's log").add_argument("process")
    ctl = verbs.add_parser("ctl", help="penstockctl towards a process: ctl PROCESS -- show peers")
    ctl.add_argument("process", choices=ALL_PROCESSES)
    ctl.add_argument("arguments", nargs=argparse.REMAINDER)
    return top


def signal_number(text):
    if text.isdigit():
        return int(text)
    try:
        return signal.Signals[text if text.startswith("SIG") else f"SIG{text}"].value
    except KeyError:
        raise LabError(f"unknown signal {text}") from None


def without_dashes(words):
    return words[1:] if words[:1] == ["--"] else words


def dispatch(arguments):
    lab = Lab(arguments.name)
    verb = arguments.verb
    if verb == "up":
        kind = arguments.nat or "preserving"
        lab.up(arguments.client_nat or kind, arguments.gateway_nat or kind, arguments.unexpected, arguments.driver,
               arguments.build, parts=arguments.parts, without=arguments.without)
        verb = "status"
    if verb == "status":
        for key, value in lab.status():
            print(f"{key:14} {value}")
    elif verb == "down":
        stubborn = lab.down()
        if stubborn:
            raise LabError(f"had to be killed: {' '.join(stubborn)}")
    elif verb == "exec":
        command = without_dashes(arguments.command)
        if not command:
            raise LabError("exec needs a command")
        os.execvp("ip", ["ip", "netns", "exec", lab.network.namespace(arguments.host), *command])
    elif verb == "nat-reset":
        lab.nat_reset(arguments.which)
    elif verb == "start":
        lab.start(arguments.process)
    elif verb == "restart":
        lab.restart(arguments.process)
    elif verb == "kill":
        lab.processes.kill(arguments.process, signal_number(arguments.signal))
    elif verb == "capture":
        os.execvp("ip", ["ip", "netns", "exec", lab.network.namespace(arguments.host), "tcpdump", "-nli",
                         arguments.interface, *without_dashes(arguments.filter)])
    elif verb == "logs":
        log = lab.processes.log_file(arguments.process)
        if not log.exists():
            raise LabError(f"no log of {arguments.process}")
        sys.stdout.write(log.read_text(errors="replace"))
    elif verb == "ctl":
        print(lab.penstock.ctl(arguments.process, *without_dashes(arguments.arguments), as_json=False), end="")


def main():
    try:
        dispatch(parser().parse_args())
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0
