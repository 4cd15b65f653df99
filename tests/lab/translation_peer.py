#!/usr/bin/python3
"""Both ends of the translation tests' conversations, run inside namespaces; the kernel's sockets are the judges.

    translation_peer.py serve DIRECTORY          echoes and odd endings, both families, until it is ended
    translation_peer.py ask WHAT HOST FAMILY [NUMBER]   one conversation; prints what it saw as JSON
"""
import errno
import json
import os
import selectors
import socket
import struct
import sys

UDP_ECHO, TCP_ECHO, TCP_RESET, TCP_CLOSE_FIRST, TCP_STAY, UDP_LONG, UDP_WHO = 7000, 7001, 7002, 7003, 7004, 7005, 7006
CLOSED = 7099
TIMEOUT = 5.0
IP_RECVTOS, IPV6_RECVTCLASS, IP_MTU_DISCOVER, IPV6_MTU_DISCOVER, PMTUDISC_DO = 13, 66, 10, 23, 2
IP_MTU, IPV6_MTU = 14, 24


def marks(data):
    """TOS or traffic class of a received message."""
    for level, kind, value in data:
        if (level, kind) in ((socket.IPPROTO_IP, socket.IP_TOS), (socket.IPPROTO_IPV6, socket.IPV6_TCLASS)):
            return value[0] if len(value) < 4 else struct.unpack("i", value[:4])[0]
    return -1


def set_mark(sock, mark):
    if sock.family == socket.AF_INET:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, mark)
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, mark)


def udp(family):
    sock = socket.socket(family, socket.SOCK_DGRAM)
    if family == socket.AF_INET:
        sock.setsockopt(socket.IPPROTO_IP, IP_RECVTOS, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVTCLASS, 1)
    return sock


def bound(family, kind, port):
    sock = udp(family) if kind == socket.SOCK_DGRAM else socket.socket(family, kind)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    sock.bind(("", port))
    if kind == socket.SOCK_STREAM:
        sock.listen(64)
    return sock


# ---- the server ----

def echo_datagram(sock):
    data, ancillary, _, sender = sock.recvmsg(65535, 256)
    mark = marks(ancillary)
    # What the mark was on arrival comes back in the data, and as the answer's own mark.
    set_mark(sock, max(mark, 0))
    sock.sendto(bytes([mark & 0xFF]) + data[1:], sender)


def who_asks(sock):
    _, sender = sock.recvfrom(100)
    sock.sendto(f"{sender[0]} {sender[1]}".encode(), sender)


def long_datagram(sock):
    """Tries to answer with as many bytes as asked for, never fragmented; says what the kernel thinks of the way."""
    data, _, _, sender = sock.recvmsg(65535, 256)
    size = struct.unpack("!H", data[:2])[0]
    level, discover, mtu = ((socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_MTU) if sock.family == socket.AF_INET else
                            (socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER, IPV6_MTU))
    with socket.socket(sock.family, socket.SOCK_DGRAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.connect(sender[:2])
        known = probe.getsockopt(level, mtu)
    sock.setsockopt(level, discover, PMTUDISC_DO)
    try:
        sock.sendto(struct.pack("!H", known) + bytes(size - 2), sender)
    except OSError as error:
        if error.errno != errno.EMSGSIZE:
            raise
        sock.sendto(struct.pack("!H", known), sender)


def converse(kind, connection):
    if kind == TCP_RESET:
        connection.recv(1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()
    elif kind == TCP_CLOSE_FIRST:
        connection.sendall(b"goodbye")
        connection.shutdown(socket.SHUT_WR)
        rest = b""
        while chunk := connection.recv(4096):
            rest += chunk
        with open(os.path.join(sys.argv[2], "after-fin"), "wb") as out:
            out.write(rest)
        connection.close()
    elif kind == TCP_STAY:
        connection.sendall(b"x")
        try:
            ended = "closed" if connection.recv(1) == b"" else "data"
        except ConnectionResetError:
            ended = "reset"
        with open(os.path.join(sys.argv[2], "ended"), "w", encoding="ascii") as out:
            out.write(ended)
        connection.close()
    else:
        while chunk := connection.recv(65536):
            connection.sendall(chunk)
        connection.close()


def serve():
    selector = selectors.DefaultSelector()
    for family in (socket.AF_INET, socket.AF_INET6):
        for port, handle in ((UDP_ECHO, echo_datagram), (UDP_LONG, long_datagram), (UDP_WHO, who_asks)):
            selector.register(bound(family, socket.SOCK_DGRAM, port), selectors.EVENT_READ, handle)
        for port in (TCP_ECHO, TCP_RESET, TCP_CLOSE_FIRST, TCP_STAY):
            selector.register(bound(family, socket.SOCK_STREAM, port), selectors.EVENT_READ, port)
    while True:
        for key, _ in selector.select():
            if callable(key.data):
                key.data(key.fileobj)
            else:
                connection, _ = key.fileobj.accept()
                connection.settimeout(TIMEOUT)
                try:
                    converse(key.data, connection)
                except OSError:
                    connection.close()


# ---- the client ----

def address(host, family, port, kind):
    return socket.getaddrinfo(host, port, family, kind)[0][4]


def connect(host, family, port):
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.settimeout(TIMEOUT)
    sock.connect(address(host, family, port, socket.SOCK_STREAM))
    return sock


def ask_datagram(host, family, size):
    """Asked up to three times: what teaches a kernel the way's MTU is lost."""
    sock = udp(family)
    sock.settimeout(1.5)
    data = bytes(i * 7 & 0xFF for i in range(size))
    for attempt in range(1, 4):
        sock.sendto(data, address(host, family, UDP_ECHO, socket.SOCK_DGRAM))
        try:
            answer = sock.recv(65535)
            return {"same": answer[1:] == data[1:], "bytes": len(answer)}
        except socket.timeout:
            if attempt == 3:
                raise
    return {}


def ask_mark(host, family, mark):
    sock = udp(family)
    sock.settimeout(TIMEOUT)
    set_mark(sock, mark)
    sock.sendto(b"\0mark", address(host, family, UDP_ECHO, socket.SOCK_DGRAM))
    data, ancillary, _, _ = sock.recvmsg(100, 256)
    return {"arrived": data[0], "returned": marks(ancillary)}


def ask_who(host, family, port):
    """How the server sees us: address and port."""
    sock = udp(family)
    sock.settimeout(TIMEOUT)
    sock.bind(("", port))
    sock.sendto(b"?", address(host, family, UDP_WHO, socket.SOCK_DGRAM))
    seen = sock.recv(100).decode().split()
    return {"address": seen[0], "port": int(seen[1])}


def ask_long(host, family, size):
    """Asks again until the server's kernel has learned the way's MTU and what it sends gets here."""
    sock = udp(family)
    sock.settimeout(1.0)
    seen = []
    for _ in range(6):
        sock.sendto(struct.pack("!H", size), address(host, family, UDP_LONG, socket.SOCK_DGRAM))
        try:
            seen.append([struct.unpack("!H", data[:2])[0], len(data)] if (data := sock.recv(65535)) else None)
            if len(seen[-1]) and seen[-1][1] == 2:
                break
        except socket.timeout:
            seen.append(None)
    return {"seen": seen}


def ask_echo(host, family, size):
    sock = connect(host, family, TCP_ECHO)
    data = os.urandom(size)
    got = b""
    sent = 0
    sock.setblocking(False)
    selector = selectors.DefaultSelector()
    selector.register(sock, selectors.EVENT_READ | selectors.EVENT_WRITE)
    while len(got) < size:
        ready = selector.select(TIMEOUT)
        if not ready:
            raise socket.timeout(f"{len(got)} of {size} bytes came back")
        for _, events in ready:
            if events & selectors.EVENT_WRITE and sent < size:
                sent += sock.send(data[sent:sent + 65536])
                if sent == size:
                    selector.modify(sock, selectors.EVENT_READ)
            if events & selectors.EVENT_READ:
                got += sock.recv(65536)
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
    return {"same": got == data, "options": info[5], "mss": struct.unpack("I", info[16:20])[0]}


def ask_reset(host, family, _):
    sock = connect(host, family, TCP_RESET)
    sock.sendall(b"x")
    try:
        return {"saw": "closed" if sock.recv(1) == b"" else "data"}
    except ConnectionResetError:
        return {"saw": "reset"}


def ask_close_first(host, family, _):
    """The server ends its half; ours goes on."""
    sock = connect(host, family, TCP_CLOSE_FIRST)
    got = b""
    while chunk := sock.recv(100):
        got += chunk
    sock.sendall(b"still here")
    sock.close()
    return {"got": got.decode()}


def ask_stay(host, family, abort):
    sock = connect(host, family, TCP_STAY)
    sock.recv(1)
    if abort:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()
    return {}


def ask_refused(host, family, _):
    try:
        connect(host, family, CLOSED)
        return {"saw": "connected"}
    except OSError as error:
        return {"saw": errno.errorcode.get(error.errno or 0, str(error))}


def main():
    if sys.argv[1] == "serve":
        serve()
    what, host, family = sys.argv[2:5]
    number = int(sys.argv[5]) if len(sys.argv) > 5 else 0
    family = socket.AF_INET if family == "4" else socket.AF_INET6
    try:
        print(json.dumps(globals()[f"ask_{what}"](host, family, number)))
    except OSError as error:
        print(json.dumps({"error": str(error) or type(error).__name__}))


main()
