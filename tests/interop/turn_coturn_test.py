#!/usr/bin/python3
"""TurnClient against Debian's coturn on loopback.

Each case starts its own turnserver (and ends it by pid): time-limited credentials, both families, with and without
mobility, a nonce that expires, a restart.
"""
import base64
import hashlib
import hmac
import os
import pathlib
import shutil
import socket
import subprocess
import tempfile
import time

SECRET = "lab-secret"
REALM = "penstock.test"


def credentials():
    username = f"{int(time.time()) + 3600}:client"
    digest = hmac.new(SECRET.encode(), username.encode(), hashlib.sha1).digest()
    return username, base64.b64encode(digest).decode()


def free_port(family, address):
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.bind((address, 0))
        return probe.getsockname()[1]


class Server:
    def __init__(self, directory, address, port, extra):
        self.directory, self.address, self.port, self.extra = directory, address, port, extra
        self.process = None

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.stop()

    def start(self):
        self.process = subprocess.Popen(
            ["turnserver", "-n", "--no-cli", "--no-tls", "--no-dtls", "--no-tcp",
             "--listening-ip", self.address, "--relay-ip", self.address, "--listening-port", str(self.port),
             "--min-port", "20000", "--max-port", "29999",
             "--use-auth-secret", "--static-auth-secret", SECRET, "--realm", REALM, "--allow-loopback-peers",
             "--no-software-attribute", "--simple-log", "--log-file", os.path.join(self.directory, "turn.log"),
             "--pidfile", os.path.join(self.directory, "turn.pid"),
             "--userdb", os.path.join(self.directory, "turndb"), *self.extra],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Peer:
    def __init__(self, program, server):
        where = f"[{server.address}]:{server.port}" if ":" in server.address else f"{server.address}:{server.port}"
        self.process = subprocess.Popen([program, where, *credentials()], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait(10)

    def do(self, command):
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline().strip()
        print(f"    {command}: {answer}", flush=True)
        if not answer.startswith("ok"):
            raise SystemExit(f"{command}: {answer or 'no answer'}")
        return answer


def everything(peer, server):
    assert "ticket" not in peer.do("allocate")
    assert peer.do("exchange 40") == "ok channel=0"
    peer.do("channels")
    assert peer.do("exchange 40") == "ok channel=80"
    peer.do("refresh")
    peer.do("exchange 5")


def restart(peer, server):
    peer.do("allocate")
    peer.do("exchange 3")
    server.stop()
    server.start()
    peer.do("restarted")
    peer.do("exchange 3")


def mobility(peer, server):
    assert "ticket" in peer.do("allocate")
    peer.do("channels")
    for _ in range(3):
        peer.do("move")
        peer.do("exchange 5")
    peer.do("refresh")


def stale_nonce(peer, server):
    peer.do("allocate")
    peer.do("run 4")
    peer.do("refresh")
    peer.do("exchange 3")


CASES = [
    ("everything over IPv4", "127.0.0.1", [], everything),
    ("everything over IPv6", "::1", [], everything),
    ("restart of the relay", "127.0.0.1", [], restart),
    ("mobility", "127.0.0.1", ["--mobility"], mobility),
    ("expiring nonce", "127.0.0.1", ["--stale-nonce=2"], stale_nonce),
]


def main():
    build = pathlib.Path(os.environ.get("PENSTOCK_BUILD", pathlib.Path(__file__).resolve().parents[2] / "build"))
    turn_peer = str(build / "tests" / "interop" / "turn_peer")
    if shutil.which("turnserver") is None:
        raise SystemExit("turnserver (package coturn) is needed")
    for name, address, extra, case in CASES:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with tempfile.TemporaryDirectory() as directory:
            with Server(directory, address, free_port(family, address), extra) as server:
                with Peer(turn_peer, server) as peer:
                    case(peer, server)
                    peer.do("close")
        print(f"PASS {name}", flush=True)


if __name__ == "__main__":
    main()
