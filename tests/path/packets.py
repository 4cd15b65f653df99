"""Packets and captures, byte by byte: none of the code under test is used."""
import ipaddress
import struct


def checksum(data, initial=0):
    data = bytes(data) + b"\0" * (len(data) % 2)
    total = initial + sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def packed(address):
    return ipaddress.ip_address(address).packed


def udp(source, destination, payload=b"abcd", error=0, zero=False, ports=(4000, 53)):
    segment = struct.pack("!HHHH", *ports, 8 + len(payload), 0) + payload
    pseudo = packed(source) + packed(destination) + struct.pack("!HH", 17, len(segment))
    value = 0 if zero else (checksum(pseudo + segment) + error) & 0xFFFF
    return segment[:6] + struct.pack("!H", value) + segment[8:]


def ip4(source, destination, payload, protocol=17, ttl=64, tos=0, flags=0x4000, identification=7):
    head = struct.pack("!BBHHHBBH", 0x45, tos, 20 + len(payload), identification, flags, ttl, protocol, 0)
    head += packed(source) + packed(destination)
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + payload


def ip6(source, destination, payload, protocol=17, hop=63, tc=0, flow=0):
    return struct.pack("!IHBB", 6 << 28 | tc << 20 | flow, len(payload), protocol, hop) + packed(source) + packed(
        destination) + payload


def fragment(payload, offset, more, identification=7, protocol=17):
    return struct.pack("!BBHI", protocol, 0, offset | more, identification) + payload


def pcap(packets, link=101, frame=b"", endian="<", nanoseconds=False):
    out = struct.pack(endian + "IHHIIII", 0xA1B23C4D if nanoseconds else 0xA1B2C3D4, 2, 4, 0, 0, 65535, link)
    for packet in packets:
        out += struct.pack(endian + "IIII", 0, 0, len(frame + packet), len(frame + packet)) + frame + packet
    return out


def pcapng(packets, endian="<", kind=6):
    def block(kind, body):
        body += b"\0" * (-len(body) % 4)
        return struct.pack(endian + "II", kind, len(body) + 12) + body + struct.pack(endian + "I", len(body) + 12)

    out = block(0x0A0D0D0A, struct.pack(endian + "IHHq", 0x1A2B3C4D, 1, 0, -1))
    out += block(1, struct.pack(endian + "HHI", 101, 0, 0))
    for packet in packets:
        size = len(packet)
        head = {6: struct.pack(endian + "IIIII", 0, 0, 0, size, size), 3: struct.pack(endian + "I", size),
                2: struct.pack(endian + "HHIIII", 0, 0, 0, 0, size, size)}[kind]
        out += block(kind, head + packet)
    return out


def error4(source, destination, kind, code, inside):
    message = struct.pack("!BBHI", kind, code, 0, 0) + inside
    return ip4(source, destination, message[:2] + struct.pack("!H", checksum(message)) + message[4:], 1)
