#!/usr/bin/python3 -B
"""Peers, sessions and flows in large numbers: memory, throughput beside that of few, new flows per second, start-up,
and programming peers over gRPC."""

import json
import pathlib
import signal
import statistics
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from penstock_perf.bench import BUILD, Suite  # noqa: E402

from netns import DataPlane, Failure, Network  # noqa: E402

GIB = 2**30


def run(suite, program, *arguments):
    """One helper in a process of its own; its progress is ours."""
    command = [str(BUILD / "perf" / "scale" / f"perf-scale-{program}"), *map(str, arguments)]
    process = subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    tail = []
    for line in process.stderr:
        suite.say(line.rstrip())
        tail = (tail + [line.rstrip()])[-5:]
    out = process.stdout.read()
    process.stdout.close()
    process.stderr.close()
    if process.wait() != 0:
        raise Failure(f"{' '.join(command)} ended with {process.returncode}: {' / '.join(tail)}")
    return json.loads(out)


def memory(suite):
    peers, sessions = (1_000_000, 10_000) if suite.quick else (1_000_000, 100_000)
    suite.say(f"memory of {peers} peers, {sessions} of them with sessions")
    found = run(suite, "memory", peers, sessions)
    suite.row("memory/peer", found["peer_bytes"], "bytes", goal=512, better="less",
              note=f"WireGuard's state of a configured peer, of {peers:,}; its policy without names takes "
                   f"{found['policy_bytes']:.0f} more")
    suite.row("memory/policy", found["policy_bytes"], "bytes", better="less")
    whole = found["session_bytes"] + found["tables_bytes"] / 100_000
    suite.row("memory/session", whole, "bytes", goal=4096, better="less",
              note=f"whole: {found['session_bytes']:.0f} with the handshake's state, of {sessions:,} sessions, and a share in "
                   f"{found['tables_bytes'] / 2**20:.0f} MiB of tables, of 100 000")
    total = found["total_bytes"] if not suite.quick else (
        found["total_bytes"] + (100_000 - sessions) * found["session_bytes"])
    suite.row("memory/peers-and-sessions", total / GIB, "GiB", goal=1, better="less",
              note="1 000 000 peers with policies, 100 000 sessions, peak" + ("; extrapolated" if suite.quick else ""))


def flows(suite):
    count = 10_000_000
    suite.say(f"memory of {count} flows, and their setting up")
    found = run(suite, "flows", count, 16)
    many = run(suite, "flows", 2_000_000, 512)
    suite.row("memory/flows", found["peak_bytes"] / GIB, "GiB", goal=2.5, better="less",
              note=f"{count:,} flows, peak; {found['bytes'] / count:.0f} bytes each")
    suite.row("new-flows", found["mflows_s"], "M/s", spread=[found["low"], found["high"]], goal=1,
              note=f"{found['cycles']:.0f} cycles for the first packet in the translator while the table fills to "
                   f"{count:,}, of 16 peers in turn; of 512 peers, whose policies no cache holds, "
                   f"{many['mflows_s']:.2f} M/s")


def flow_table(suite):
    """Looking flows up, beside DPDK's rte_hash and liburcu's cds_lfht, which take turns with ours."""
    count = 1_000_000 if suite.quick else 10_000_000
    suite.say(f"look-ups among {count} flows, beside rte_hash and cds_lfht")
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        command = [str(BUILD / "perf" / "flow_table" / "perf-flow-table"), "--flows", str(count), "--json", file.name]
        done = subprocess.run(command, text=True, capture_output=True)
        if done.returncode != 0:
            raise Failure(f"{' '.join(command)} ended with {done.returncode}: {done.stderr.strip()[-300:]}")
        for row in json.load(file):
            if row["name"].endswith("/lookup"):
                row.pop("suite")
                suite.row(**{**row, "name": f"lookup/{count}", "goal_ratio": 1.8})


def throughput(suite):
    seconds = 2 if suite.quick else 8
    many_peers = 5_000 if suite.quick else 100_000
    for direction in ("up", "down"):
        found = run(suite, "throughput", 16, 1000, many_peers, many_peers, direction, 64, seconds)
        beside(suite, "peers", direction, 16, many_peers, found, 0.70)
    many_flows = 1_000_000 if suite.quick else 10_000_000
    for direction in ("up", "down"):
        found = run(suite, "throughput", 16, 1000, 256, many_flows, direction, 64, seconds)
        beside(suite, "flows", direction, 1000, many_flows, found, 0.60)


def beside(suite, what, direction, few, many, found, goal):
    suite.row(f"{what}/{few}/{direction}", found["few"], "Mpps", spread=[found["few_low"], found["few_high"]])
    suite.row(f"{what}/{many}/{direction}", found["many"], "Mpps", spread=[found["many_low"], found["many_high"]],
              limit=found["few"], goal_share=goal, note=f"limit: the same with {few} {what}, windows in turn")


def configuration(directory, max_peers):
    return f"""
private_key_file: {directory}/key
control: {{socket: {directory}/dataplane.sock}}
tunnel: {{port: wan}}
max_peers: {max_peers}
dpdk: {{hugepages: auto, memory_mb: 256}}
nat: {{max_flows: 1000000}}
ports:
  - {{name: wan, device: "net_memif0,role=server,socket={directory}/w.sock,socket-abstract=no",
      addresses: [198.51.100.1/24]}}
  - {{name: lan, device: "net_memif1,role=server,socket={directory}/l.sock,socket-abstract=no",
      addresses: [203.0.113.1/24]}}
"""


def process(suite):
    """The real process: how soon it is ready, how soon it knows its peers."""
    suite.say("start of the data plane, and 100 000 peers over gRPC")
    starts, programmed, slowest, resident = [], [], [], 0
    with Network("box") as net:
        for _ in range(2 if suite.quick else 5):
            plane = DataPlane(net, "box", configuration(net.directory, 1_000_000))
            starts.append(plane.start_seconds)
            found = run(suite, "program", net.directory / "dataplane.sock", 100_000, 1000)
            programmed.append(found["seconds"])
            slowest.append(found["slowest_call_s"])
            status = pathlib.Path(f"/proc/{plane.process.pid}/status").read_text()
            resident = next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmRSS"))
            plane.process.send_signal(signal.SIGTERM)
            if plane.process.wait(20) != 0:
                raise Failure(f"data plane ended with {plane.process.returncode}\n{net.log('dataplane')}")
    suite.row("start", statistics.median(starts), "s", spread=[min(starts), max(starts)], goal=1, better="less",
              note="penstock-dataplane with max_peers 1 000 000 and a million flows, from exec to ready")
    suite.row("program-100000-peers", statistics.median(programmed), "s", spread=[min(programmed), max(programmed)],
              goal=2, better="less", note=f"each with a preshared key and one right, 1000 per Apply; slowest call "
                                  f"{max(slowest) * 1000:.0f} ms; the process then has {resident / 2**20:.0f} MiB")


def main():
    with Suite("scale", __doc__.splitlines()[0]) as suite:
        for part in (memory, flows, flow_table, throughput, process):
            part(suite)


if __name__ == "__main__":
    try:
        main()
    except (Failure, subprocess.SubprocessError) as failure:
        print(failure, file=sys.stderr)
        sys.exit(1)
