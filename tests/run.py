#!/usr/bin/python3
"""Runs every test and ends in one line: N passed, N failed, N skipped.

Parts, in order: what meson knows (unit, packet tables, models; every gtest case counts as one), then the programs of
tests/interop and tests/lab. Those print lines `PASS name`, `FAIL name` or `SKIP name: reason`, and their exit code
must agree; a program that prints none of these counts as one test by its exit code.
`quick` runs only what needs neither root nor namespaces.
"""

import os
import pathlib
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree

ROOT = pathlib.Path(__file__).resolve().parent.parent
BUILD = pathlib.Path(os.environ.get("PENSTOCK_BUILD", ROOT / "build"))  # documented in docs/development.md
QUICK_SUITES = ("unit", "path", "model")
PROGRAM_TIMEOUT = 1200


class Results:
    def __init__(self):
        self.passed = self.failed = self.skipped = 0

    def add(self, outcome, name, detail=""):
        if outcome == "PASS":
            self.passed += 1
        elif outcome == "SKIP":
            self.skipped += 1
            print(f"  SKIP {name}: {detail}", flush=True)
        else:
            self.failed += 1
            print(f"  FAIL {name}" + (f": {detail}" if detail else ""), flush=True)

    def line(self):
        return f"{self.passed} passed, {self.failed} failed, {self.skipped} skipped"


def properties_environment():
    """Properties run the same cases everywhere, unless RC_PARAMS says otherwise (e.g. another seed, more cases)."""
    return {"RC_PARAMS": "seed=20261123", **os.environ}


def run_meson(results, suites, pattern):
    command = ["meson", "test", "-C", str(BUILD), "--no-rebuild", "--print-errorlogs", "--timeout-multiplier", "4"]
    for suite in suites:
        command += ["--suite", suite]
    if pattern:
        listed = subprocess.run(["meson", "test", "-C", str(BUILD), "--no-rebuild", "--list"], text=True,
                                capture_output=True, check=True).stdout
        names = [line.split(" / ")[-1].strip() for line in listed.splitlines() if pattern in line]
        if not names:
            return
        command += names
    report = BUILD / "meson-logs" / "testlog.junit.xml"
    report.unlink(missing_ok=True)
    started = time.monotonic()
    outcome = subprocess.run(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                             env=properties_environment())
    before = results.failed
    if report.exists():
        for case in ElementTree.parse(report).getroot().iter("testcase"):
            name = f"{case.get('classname', '')}.{case.get('name', '')}"
            problem = case.find("failure") if case.find("failure") is not None else case.find("error")
            if problem is not None:
                results.add("FAIL", name)
            elif case.find("skipped") is not None:
                results.add("SKIP", name, case.find("skipped").get("message", "no reason given"))
            else:
                results.add("PASS", name)
    if outcome.returncode != 0:
        print(outcome.stdout[-12000:])
        if results.failed == before:
            results.add("FAIL", "meson test", f"exit code {outcome.returncode}")
    print(f"unit tests, packet tables, models: {time.monotonic() - started:.0f} s", flush=True)


def run_program(results, program):
    name = str(program.relative_to(ROOT / "tests"))
    started = time.monotonic()
    failed_before, counted = results.failed, 0
    print(f"{name} ...", flush=True)
    child = subprocess.Popen([str(program)], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                             env={**os.environ, "PENSTOCK_BUILD": str(BUILD)}, errors="replace")
    kept = []
    timed_out = False
    try:
        out, _ = child.communicate(timeout=PROGRAM_TIMEOUT)
    except subprocess.TimeoutExpired:
        child.kill()
        out, _ = child.communicate()
        timed_out = True
    for line in out.splitlines():
        kept.append(line)
        word, _, rest = line.partition(" ")
        if word in ("PASS", "FAIL", "SKIP") and rest:
            test, _, detail = rest.partition(": ")
            results.add(word, f"{name}: {test}", detail)
            counted += 1
    if timed_out:
        results.add("FAIL", name, f"not finished after {PROGRAM_TIMEOUT} s")
    elif child.returncode != 0 and results.failed == failed_before:
        results.add("FAIL", name, f"exit code {child.returncode}")
    elif counted == 0:
        results.add("PASS", name)
    if results.failed != failed_before:
        print("\n".join(f"    | {line}" for line in kept[-120:]))
    print(f"  {time.monotonic() - started:.0f} s", flush=True)


def programs():
    """Executable programs of the two folders; interop first. The long real rekey runs inside its own program."""
    found = []
    for folder in ("interop", "lab"):
        for path in sorted((ROOT / "tests" / folder).glob("*_test.py")):
            if not os.access(path, os.X_OK):
                raise SystemExit(f"{path} is not executable")
            found.append(path)
    return found


def main():
    words = sys.argv[1:]
    quick = "quick" in words
    patterns = [word for word in words if word != "quick"]
    pattern = patterns[0] if patterns else ""
    results = Results()
    started = time.monotonic()
    root = os.geteuid() == 0
    run_meson(results, QUICK_SUITES + (("root",) if root and not quick else ()), pattern)
    if not quick:
        for program in programs():
            if pattern and pattern not in str(program):
                continue
            if root:
                run_program(results, program)
            else:
                results.add("SKIP", str(program.relative_to(ROOT)), "needs root for network namespaces")
    print(f"all tests: {time.monotonic() - started:.0f} s")
    print(results.line())
    return 1 if results.failed or results.passed == 0 else 0


if __name__ == "__main__":
    sys.exit(main())
