"""What suites written in Python share: their command line, the rows they write, medians, and processor time."""

import argparse
import json
import os
import pathlib
import statistics
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("PENSTOCK_BUILD", ROOT / "build"))
sys.path.insert(0, str(ROOT / "tests" / "interop"))


class Suite:
    """`with Suite("compare", doc) as suite:` parses the command line; `suite.row(...)` writes one figure at once."""

    def __init__(self, name, description):
        parser = argparse.ArgumentParser(description=description)
        parser.add_argument("--quick", action="store_true", help="fewer and shorter windows")
        parser.add_argument("--json", metavar="FILE", type=pathlib.Path, required=True)
        self.name = name
        self.options = parser.parse_args()
        self.quick = self.options.quick
        self.file = open(self.options.json, "w")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()

    def say(self, text):
        print(text, file=sys.stderr, flush=True)

    def row(self, name, value, unit, **more):
        row = dict(suite=self.name, name=name, value=value, unit=unit, **more)
        self.file.write(json.dumps({key: item for key, item in row.items() if item is not None}) + "\n")
        self.file.flush()


def median(values):
    return statistics.median(values)


def spread(values):
    return [min(values), max(values)]


def processor_seconds(pid):
    """User and system time of a process and all its threads."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Clock:
    """Wall and processor time of a process between two looks."""

    def __init__(self, pid):
        self.pid = pid
        self.wall, self.used = time.monotonic(), processor_seconds(pid)

    def elapsed(self):
        return time.monotonic() - self.wall, processor_seconds(self.pid) - self.used
