#!/usr/bin/python3
"""The data plane is restarted under a standard peer: Debian's wireguard-go notices nothing but a pause.

    peer (wireguard-go) --- gw (penstock-dataplane, stopped and started again) --- lan
"""

import json
import os
import re
import signal
import socket
import subprocess
import time

from netns import DataPlane, Failure, build_directory, main, run, wait_until
from wireguard_go_client_test import LAN4, Setup

# One connection for as long as the client likes; every line is answered with the client's address and port.
SERVER = """
import socket
server = socket.create_server(("203.0.113.80", 7001))
print("serving", flush=True)
connection, peer = server.accept()
for line in connection.makefile():
    connection.sendall(f"{peer[0]} {peer[1]} {line}".encode())
"""

# Twenty lines a second; a line is repeated by TCP as often as it takes, and by nobody else.
CLIENT = """
import socket, time
connection = socket.create_connection(("203.0.113.80", 7001), 5)
connection.settimeout(15)
answers = connection.makefile()
number = 0
while True:
    connection.sendall(f"{number}\\n".encode())
    address, port, back = answers.readline().split()
    print(address, port, back, time.monotonic(), flush=True)
    number += 1
    time.sleep(0.05)
"""


def initiations(setup):
    return setup.net.log("wireguard-go").count("Sending handshake initiation")


def lines(setup):
    return [line.split() for line in setup.net.log("client").splitlines() if line.count(" ") == 3]


def start_lines(plane):
    return [line for line in plane.net.log(plane.name).splitlines() if " start: " in line]


def next_plane(setup, name, change=lambda text: text, **options):
    """The one that takes the place of setup.plane, which has ended."""
    text = change((setup.net.directory / "dataplane.yaml").read_text())
    setup.plane = DataPlane(setup.net, "gw", text, name=name, **options)
    return setup.plane


def status(setup):
    return json.loads(run(str(build_directory() / "controlplane" / "ctl" / "penstockctl"), "--socket",
                          str(setup.net.directory / "dataplane.sock"), "status", "--json").stdout)


def flow_goes_on(setup, restart):
    """A TCP connection through the tunnel, before, across and after `restart()`. Returns the pause in seconds."""
    net = setup.net
    net.start("lan", "server", "/usr/bin/python3", "-c", SERVER)
    wait_until(lambda: "serving" in net.log("server"), 5, "server")
    client = net.start("peer", "client", "/usr/bin/python3", "-c", CLIENT)
    wait_until(lambda: len(lines(setup)) >= 10, 10, "answers")
    handshake, asked = setup.latest_handshake(), initiations(setup)
    restart()
    before = len(lines(setup))
    wait_until(lambda: len(lines(setup)) >= before + 20 or client.poll() is not None, 20, "answers after the restart")
    if client.poll() is not None:
        raise Failure(f"the connection broke\n{net.log('client')[-500:]}\n{net.log(setup.plane.name)}")
    seen = lines(setup)
    if len({(address, port) for address, port, _, _ in seen}) != 1:
        raise Failure("the connection has another address or port outside")
    if [int(number) for _, _, number, _ in seen] != list(range(len(seen))):
        raise Failure("lines were lost or repeated")
    if (setup.latest_handshake(), initiations(setup)) != (handshake, asked):
        raise Failure("it took a new handshake")
    net.ping("peer", LAN4)
    times = [float(at) for _, _, _, at in seen]
    return max(b - a for a, b in zip(times, times[1:]))


def a_standard_peer_notices_nothing(driver="af_packet"):
    """Session, NAT flow and neighbours are there again; no handshake, no reset, the same port outside."""
    with Setup(driver=driver) as setup:
        setup.net.ping("peer", LAN4)

        def restart():
            setup.plane.stop()
            next_plane(setup, "second", mount_bpf=driver == "af_xdp")
        pause = flow_goes_on(setup, restart)
        said = start_lines(setup.plane)
        if len(said) != 1 or "warm start: 1 sessions of 1 peers" not in said[0]:
            raise Failure(f"not a warm start: {said}")
        shown = [line["value"] for line in status(setup)["lines"] if line["key"] == "start"]
        if not shown or not shown[0].startswith("warm: 1 sessions"):
            raise Failure(f"penstockctl says: {shown}")
        setup.plane.stop()
        return f"{driver}: pause of {pause * 1000:.0f} ms for TCP"


def over_af_xdp():
    return a_standard_peer_notices_nothing("af_xdp")


def without_hand_over():
    """`handover: 0s`: the next start is cold, and says so; the peer needs a handshake."""
    with Setup() as setup:
        setup.net.ping("peer", LAN4)
        setup.plane.stop()
        off = next_plane(setup, "second", lambda text: "handover: 0s\n" + text)
        if "warm start" not in setup.net.log("second"):
            raise Failure("what had been left was not taken")
        off.stop()
        if (setup.net.directory / "dataplane.sock.handover").exists():
            raise Failure("something was left although nothing was to be")
        cold = next_plane(setup, "third")
        if start_lines(cold):
            raise Failure(f"a warm start out of nothing: {start_lines(cold)}")
        shown = [line["value"] for line in status(setup)["lines"] if line["key"] == "start"]
        if shown != ["cold"]:
            raise Failure(f"penstockctl says: {shown}")
        cold.stop()


def another_private_key_starts_cold():
    with Setup() as setup:
        setup.net.ping("peer", LAN4)
        setup.plane.stop()
        plane = next_plane(setup, "second", lambda text: text.replace("/key\n", "/other-key\n"))
        if "cold start: what was left belongs to another private key" not in setup.net.log("second"):
            raise Failure(f"no word about the key:\n{setup.net.log('second')}")
        plane.stop()


def under_a_service_manager():
    """systemd's protocol, played by the test: the memory goes to the manager's descriptor store and back."""
    with Setup() as setup:
        net = setup.net
        setup.plane.stop()
        manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        path = str(net.directory / "notify.sock")
        manager.bind(path)
        manager.settimeout(10)
        stored = {}

        def hear_until(wanted):
            while True:
                data, fds, _, _ = socket.recv_fds(manager, 4096, 4)
                text = data.decode()
                if "FDSTORE=1" in text:
                    stored[re.search("FDNAME=(.*)", text).group(1)] = fds[0]
                if "FDSTOREREMOVE=1" in text:
                    os.close(stored.pop(re.search("FDNAME=(.*)", text).group(1)))
                if wanted in text:
                    return

        def start(name):
            file = net.directory / f"{name}.yaml"
            file.write_text((net.directory / "dataplane.yaml").read_text())
            binary = build_directory() / "dataplane" / "penstock-dataplane"
            log = open(net.directory / f"{name}.log", "wb")

            def adopt():  # in the child: descriptors from 3 on, as the protocol says
                for number, fd in enumerate(stored.values(), 3):
                    os.dup2(fd, number, inheritable=True)
            environment = {**os.environ, "NOTIFY_SOCKET": path, "LISTEN_FDS": str(len(stored)),
                           "LISTEN_FDNAMES": ":".join(stored)}
            process = subprocess.Popen(
                ["ip", "netns", "exec", net.name("gw"), "sh", "-c", 'LISTEN_PID=$$ exec "$@"', "sh", binary, "--config",
                 file], stdout=log, stderr=subprocess.STDOUT, env=environment, preexec_fn=adopt,
                pass_fds=range(3, 3 + len(stored)) if stored else ())
            net.processes.append(process)
            hear_until("READY=1")
            return process

        def end(process):
            process.send_signal(signal.SIGTERM)
            if process.wait(10) != 0:
                raise Failure(f"ended with {process.returncode}")

        first = start("first")
        net.ping("peer", LAN4, count=1)
        handshake = setup.latest_handshake()
        end(first)
        hear_until("FDSTORE=1")
        if list(stored) != ["handover"]:
            raise Failure(f"stored: {list(stored)}")
        second = start("second")
        if stored:
            raise Failure("what was taken is still in the store")
        if "warm start: 1 sessions" not in net.log("second"):
            raise Failure(f"not a warm start:\n{net.log('second')}")
        net.ping("peer", LAN4)
        if setup.latest_handshake() != handshake:
            raise Failure("it took a new handshake")
        end(second)


if __name__ == "__main__":
    main([a_standard_peer_notices_nothing, over_af_xdp, without_hand_over, another_private_key_starts_cold,
          under_a_service_manager])
