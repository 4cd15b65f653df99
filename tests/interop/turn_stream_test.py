#!/usr/bin/python3
"""RelayStream and TurnClient against Debian's coturn over TCP and TLS, directly and through an HTTP proxy (tinyproxy).

Everything on loopback; each case starts its own servers and ends them by pid.
"""
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from turn_coturn_test import REALM, SECRET, credentials  # noqa: E402

NAME = "relay.penstock.test"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(port, process, what, seconds=10):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise SystemExit(f"{what} ended with {process.returncode}")
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise SystemExit(f"{what} does not listen on {port}")


def stop(process):
    process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def make_certificate(directory, name):
    key, certificate = os.path.join(directory, f"{name}.key"), os.path.join(directory, f"{name}.pem")
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                    "-keyout", key, "-out", certificate, "-days", "2", "-subj", f"/CN={name}",
                    "-addext", f"subjectAltName=DNS:{name}"], check=True, capture_output=True)
    return key, certificate


class Relay:
    def __init__(self, directory, tls):
        self.directory, self.tls = directory, tls
        self.port = free_port()
        self.key, self.certificate = make_certificate(directory, NAME)

    def __enter__(self):
        port = ["--tls-listening-port", str(self.port), "--listening-port", str(free_port()),
                "--cert", self.certificate, "--pkey", self.key] if self.tls else \
            ["--no-tls", "--listening-port", str(self.port)]
        self.process = subprocess.Popen(
            ["turnserver", "-n", "--no-cli", "--no-udp", "--no-dtls", "--listening-ip", "127.0.0.1",
             "--relay-ip", "127.0.0.1", *port, "--min-port", "20000", "--max-port", "29999",
             "--use-auth-secret", "--static-auth-secret", SECRET, "--realm", REALM, "--allow-loopback-peers",
             "--no-software-attribute", "--simple-log", "--log-file", os.path.join(self.directory, "turn.log"),
             "--pidfile", os.path.join(self.directory, "turn.pid"),
             "--userdb", os.path.join(self.directory, "turndb")],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for(self.port, self.process, "turnserver")
        return self

    def __exit__(self, *_):
        stop(self.process)


class Proxy:
    """tinyproxy that lets CONNECT through to `allowed` only."""

    def __init__(self, directory, allowed):
        self.port = free_port()
        self.config = os.path.join(directory, "tinyproxy.conf")
        pathlib.Path(self.config).write_text(
            f"Port {self.port}\nListen 127.0.0.1\nTimeout 60\nMaxClients 20\nAllow 127.0.0.1\nConnectPort {allowed}\n")

    def __enter__(self):
        self.process = subprocess.Popen(["tinyproxy", "-d", "-c", self.config], stdout=subprocess.DEVNULL,
                                        stderr=subprocess.DEVNULL)
        wait_for(self.port, self.process, "tinyproxy")
        return self

    def __exit__(self, *_):
        stop(self.process)


class Peer:
    def __init__(self, program, relay, name=NAME, ca=None, proxy=None):
        words = [program, f"127.0.0.1:{relay.port}", *credentials(), "tls" if relay.tls else "tcp"]
        if relay.tls:
            words += [name, ca or relay.certificate]
        if proxy:
            words.append(f"127.0.0.1:{proxy.port}")
        self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait(10)

    def ask(self, command):
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline().strip()
        print(f"    {command}: {answer}", flush=True)
        return answer

    def do(self, command):
        answer = self.ask(command)
        if not answer.startswith("ok"):
            raise SystemExit(f"{command}: {answer or 'no answer'}")
        return answer

    def refused(self, because):
        answer = self.ask("connect")
        if not answer.startswith("error") or because not in answer:
            raise SystemExit(f"connect: {answer!r} instead of an error about {because!r}")


def everything(peer):
    peer.do("connect")
    assert peer.do("exchange 20") == "ok channel=0"
    peer.do("channels")
    assert peer.do("exchange 40") == "ok channel=80"
    peer.do("burst 2000")


def main():
    build = pathlib.Path(os.environ.get("PENSTOCK_BUILD", pathlib.Path(__file__).resolve().parents[2] / "build"))
    program = str(build / "tests" / "interop" / "turn_stream_peer")
    for needed, package in (("turnserver", "coturn"), ("tinyproxy", "tinyproxy-bin")):
        if shutil.which(needed) is None:
            raise SystemExit(f"{needed} (package {package}) is needed")
    for tls in (False, True):
        kind = "TLS" if tls else "TCP"
        with tempfile.TemporaryDirectory() as directory, Relay(directory, tls) as relay:
            with Peer(program, relay) as peer:
                everything(peer)
            print(f"PASS {kind}", flush=True)
            with Proxy(directory, relay.port) as proxy:
                with Peer(program, relay, proxy=proxy) as peer:
                    everything(peer)
            print(f"PASS {kind} through a proxy", flush=True)
            with Proxy(directory, 1) as proxy:
                with Peer(program, relay, proxy=proxy) as peer:
                    peer.refused("the proxy refuses")
            print(f"PASS {kind}: a proxy that refuses", flush=True)
            if tls:
                with Peer(program, relay, name="other.penstock.test") as peer:
                    peer.refused("certificate")
                print("PASS TLS: a certificate of another name", flush=True)
                _, stranger = make_certificate(directory, "stranger")
                with Peer(program, relay, ca=stranger) as peer:
                    peer.refused("certificate")
                print("PASS TLS: a certificate that nobody trusts", flush=True)
            with Peer(program, relay) as peer:
                peer.do("connect")
                stop(relay.process)
                peer.do("down")
            print(f"PASS {kind}: the relay goes away", flush=True)
            with Relay(directory, tls) as again, Proxy(directory, again.port) as proxy:
                with Peer(program, again, proxy=proxy) as peer:
                    peer.do("connect")
                    stop(again.process)
                    peer.do("shout")  # written to before anybody has read the end: no signal may end the process
                    peer.do("down")
            print(f"PASS {kind} through a proxy: the relay goes away while it is written to", flush=True)
            with Peer(program, relay) as peer:
                peer.refused("connect: Connection refused")
            print(f"PASS {kind}: no relay there", flush=True)


if __name__ == "__main__":
    main()
