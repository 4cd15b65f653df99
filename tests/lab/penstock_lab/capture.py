"""Outer packets on the wire: tcpdump in the lab, and what can be read in them without any key.

A WireGuard data message shows its receiver index and counter; the pair names one sealed packet wherever it is seen, so
copies over two paths and packets sent again are recognised as such.
"""

import dataclasses
import ipaddress
import signal
import struct
import subprocess

from . import topology as net
from .process import wait_until

RELAYS = {net.RELAY, net.RELAY_ALT, net.RELAY2}
COOKIE = 0x2112A442
DATA_ATTRIBUTE = 0x0013


@dataclasses.dataclass
class Seen:
    at: float
    out: bool        # from the host at which it was captured
    relayed: bool
    kind: str        # data, handshake, stun, other
    key: tuple       # of data: (receiver index, counter)
    size: int        # of the WireGuard message


class Capture:
    """tcpdump on a host's interface, from start() to finish()."""

    def __init__(self, lab, host, interface, inside):
        """`inside`: address of the tunnel's end that is behind this interface: tells out from in."""
        self.lab, self.host, self.interface, self.inside = lab, host, interface, inside
        self.file = lab.directory / f"{host}-{interface}.pcap"
        self.process = None

    def start(self):
        self.process = subprocess.Popen(
            ["ip", "netns", "exec", self.lab.network.namespace(self.host), "tcpdump", "-n", "-U", "-s", "160", "-B",
             "8192",
             "--time-stamp-precision=nano", "-i", self.interface, "-w", str(self.file), "udp"],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        wait_until(lambda: self.file.exists() and self.file.stat().st_size >= 24, 10, f"tcpdump on {self.host}")
        return self

    def finish(self):
        self.process.send_signal(signal.SIGINT)
        self.process.communicate(timeout=10)
        return [seen for at, frame in frames(self.file.read_bytes()) if (seen := self._look(at, frame))]

    def abort(self):
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.communicate()

    def _look(self, at, frame):
        if frame[12:14] != b"\x08\x00":
            return None
        header = (frame[14] & 15) * 4
        source, destination = (str(ipaddress.ip_address(frame[14 + o:18 + o])) for o in (12, 16))
        if self.inside not in (source, destination) or frame[23] != 17:
            return None
        payload = frame[14 + header + 8:]
        length = struct.unpack("!H", frame[14 + header + 4:14 + header + 6])[0] - 8
        other = destination if source == self.inside else source
        inner, size = unwrap(payload, length)
        kind, key = classify(inner)
        return Seen(at, source == self.inside, other in RELAYS, kind, key, size)


def frames(data):
    """(time, frame) of a pcap file with nanoseconds."""
    position = 24
    while position + 16 <= len(data):
        seconds, nanoseconds, captured, _ = struct.unpack("<IIII", data[position:position + 16])
        position += 16
        if position + captured > len(data):
            return
        yield seconds + nanoseconds / 1e9, data[position:position + captured]
        position += captured


def unwrap(payload, length):
    """What is inside ChannelData or a Send or Data indication (RFC 8656 §12.4, §11.6), else the payload itself."""
    if len(payload) >= 4 and payload[0] & 0xC0 == 0x40:
        return payload[4:], struct.unpack("!H", payload[2:4])[0]
    if len(payload) >= 20 and payload[:2] in (b"\x00\x16", b"\x00\x17") and (
            struct.unpack("!I", payload[4:8])[0] == COOKIE):
        position = 20
        while position + 4 <= len(payload):
            kind, size = struct.unpack("!HH", payload[position:position + 4])
            if kind == DATA_ATTRIBUTE:
                return payload[position + 4:], size
            position += 4 + (size + 3) // 4 * 4
    return payload, length


def classify(message):
    """(kind, key) of a WireGuard or STUN message."""
    if len(message) >= 16 and message[:4] == b"\x04\x00\x00\x00":
        return "data", struct.unpack("<IQ", message[4:16])
    if len(message) >= 4 and message[0] in (1, 2, 3) and message[1:4] == b"\x00\x00\x00":
        return "handshake", ()
    if len(message) >= 8 and struct.unpack("!I", message[4:8])[0] == COOKIE:
        return "stun", ()
    return "other", ()


def sealed_size(payload, inner_version):
    """Of the data message that carries a UDP packet with so much payload: padded to 16, header and tag."""
    inner = payload + 8 + (20 if inner_version == 4 else 40)
    return (inner + 15) // 16 * 16 + 32
