#!/usr/bin/python3
"""Streams and datagrams whose arrival is checked byte by byte.

Usage: stream.py serve ::      echoes datagrams (port 8001); answers streams (8000) with their digest and one of its own
       stream.py tcp ADDRESS   one stream each way
       stream.py udp ADDRESS   datagrams that the kernel hands over together, and one in fragments
"""
import hashlib
import os
import socket
import sys

family = socket.AF_INET6 if ":" in sys.argv[2] else socket.AF_INET
block = bytes(range(256)) * 1023 + b"x"
if sys.argv[1] == "serve":
    server = socket.create_server(("::", 8000), family=socket.AF_INET6, dualstack_ipv6=True)
    udp = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    udp.bind(("::", 8001))
    print("listening", flush=True)
    if os.fork() == 0:
        while True:
            udp.sendto(*udp.recvfrom(65536))
    while True:
        peer = server.accept()[0]
        digest = hashlib.sha256()
        while piece := peer.recv(1 << 16):
            digest.update(piece)
        peer.sendall(digest.digest())
        digest = hashlib.sha256()
        for i in range(10):
            peer.sendall(block)
            digest.update(block)
        peer.sendall(digest.digest())
        peer.close()
elif sys.argv[1] == "tcp":
    peer = socket.create_connection((sys.argv[2], 8000), 20)
    digest = hashlib.sha256()
    for i in range(10):
        peer.sendall(block)
        digest.update(block)
    peer.shutdown(socket.SHUT_WR)
    answer = b""
    while piece := peer.recv(1 << 16):
        answer += piece
    assert answer[:32] == digest.digest(), "upwards"
    assert len(answer) == 64 + 10 * len(block), len(answer)
    assert hashlib.sha256(answer[32:-32]).digest() == answer[-32:], "downwards"
else:
    # Runs that the kernel hands over in one piece (UDP_SEGMENT), and one datagram in fragments.
    peer = socket.socket(family, socket.SOCK_DGRAM)
    peer.settimeout(3)
    peer.connect((sys.argv[2], 8001))

    def echo(size, data):
        try:
            peer.send(data)
            got = b""
            while len(got) < len(data):
                got += peer.recv(65536)
        except TimeoutError:
            pass
        assert got in (b"", data), f"datagrams of {size}: {len(got)} of {len(data)} bytes came back"
        return got == data

    for size, total in ((1000, 30500), (1, 40)):
        peer.setsockopt(socket.SOL_UDP, 103, size)
        assert echo(size, bytes(i * 7 % 251 for i in range(total))), size
    peer.setsockopt(socket.SOL_UDP, 103, 0)
    peer.setsockopt(socket.IPPROTO_IP, 10, 0)
    # The first may be lost: it tells the server its path MTU.
    assert any(echo(5000, bytes(i * 7 % 251 for i in range(5000))) for again in range(3)), "fragments"
print("whole")
