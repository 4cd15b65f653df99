"""The suites: where their programs are, and how one is run."""

import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import threading
import time

from penstock_perf import rows

ROOT = pathlib.Path(__file__).resolve().parents[2]

SUITES = {
    "micro": "hot functions by themselves",
    "pipeline": "the worker loop on one core, both directions, by packet size",
    "memif": "the data plane in its own process, loaded by penstock-generator over memif",
    "compare": "wireguard-go, tayga, OpenSSL and ipsec-mb beside ours",
    "scale": "many peers, sessions and flows: memory, throughput, start-up",
    "latency": "time through the gateway at half load",
    "handshake": "handshakes per second, alone and under flood",
    "client": "the client's TUN path beside wireguard-go",
}

# A suite that takes longer hangs.
TIME_LIMIT = {False: 1200, True: 120}


class SuiteFailure(Exception):
    """The suite said why on its last lines, which the message repeats."""


def program(suite, build):
    """The command of a suite; SuiteFailure when there is none."""
    script = ROOT / "perf" / suite / f"{suite}.py"
    if script.exists():
        return ["/usr/bin/python3", "-B", str(script)]
    binary = build / "perf" / suite / f"perf-{suite}"
    if binary.exists():
        return [str(binary)]
    raise SuiteFailure(f"there is neither {binary} nor {script}")


def run(suite, build, quick):
    """Runs one suite with its progress on our stderr; returns its rows."""
    command = program(suite, build)
    with tempfile.TemporaryDirectory(prefix="penstock-perf-") as directory:
        out = pathlib.Path(directory) / "rows.json"
        arguments = command + (["--quick"] if quick else []) + ["--json", str(out)]
        environment = dict(os.environ, PENSTOCK_BUILD=str(build))
        code, tail = _follow(arguments, environment, suite, TIME_LIMIT[quick])
        measured = rows.read(out, suite) if out.exists() else []
    if code != 0:
        raise SuiteFailure(f"ended with {code}:\n" + "\n".join(f"    {line}" for line in tail), measured)
    if not measured:
        raise SuiteFailure("measured nothing")
    return measured


def _follow(arguments, environment, suite, limit):
    process = subprocess.Popen(arguments, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                               text=True, errors="replace", start_new_session=True)
    overdue = threading.Event()

    def end():
        overdue.set()
        os.killpg(process.pid, signal.SIGKILL)

    timer = threading.Timer(limit, end)
    timer.start()
    started, tail = time.monotonic(), []
    try:
        for line in process.stderr:
            line = line.rstrip()
            tail = (tail + [line])[-12:]
            print(f"  {time.monotonic() - started:6.1f} s  {suite}: {line}", file=sys.stderr, flush=True)
        code = process.wait()
        process.stderr.close()
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise
    finally:
        timer.cancel()
    if overdue.is_set():
        raise SuiteFailure(f"did not end within {limit} s; its last words:\n" + "\n".join(f"    {t}" for t in tail))
    return code, tail
