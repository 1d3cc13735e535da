"""Multicast DNS packets written by hand: what nobody's library would send."""
import socket
import struct

SERVICE = "_presence._tcp.local"
A, PTR, TXT, SRV, ANY = 1, 12, 16, 33, 255
FLUSH = 0x8000


def name(text, first=None):
    """Labels of a dotted name; `first` is one label that may hold dots itself."""
    labels = ([first] if first else []) + text.split(".")
    out = b""
    for label in labels:
        raw = label.encode()
        out += bytes([len(raw)]) + raw
    return out + b"\0"


def record(owner, kind, data, ttl, flush=True):
    return owner + struct.pack(">HHIH", kind, 1 | (FLUSH if flush else 0), ttl, len(data)) + data


def response(*records):
    return struct.pack(">HHHHHH", 0, 0x8400, 0, len(records), 0, 0) + b"".join(records)


def txt(**entries):
    out = b""
    for key, value in entries.items():
        raw = f"{key.replace('_', '.')}={value}".encode()
        out += bytes([len(raw)]) + raw
    return out


def goodbye(instance):
    """Says for somebody that it has gone."""
    owner = name(SERVICE, instance)
    return response(
        record(name(SERVICE), PTR, owner, 0, flush=False),
        record(owner, SRV, struct.pack(">HHH", 0, 0, 1) + name("gone.local"), 0),
        record(owner, TXT, b"\0", 0))


def claim(instance, host, address, port, **entries):
    """Says that an instance is us."""
    owner = name(SERVICE, instance)
    return response(
        record(name(SERVICE), PTR, owner, 120, flush=False),
        record(owner, SRV, struct.pack(">HHH", 0, 0, port) + name(f"{host}.local"), 120),
        record(owner, TXT, txt(txtvers=1, status="avail", **entries), 120),
        record(name(f"{host}.local"), A, socket.inet_aton(address), 120))


def send(packets, address, port):
    """Sends packets to the group, as from a responder with that address."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
        out.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        out.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        out.bind((address, port))
        out.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(address))
        out.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 255)
        out.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 1)
        for packet in packets:
            out.sendto(packet, ("224.0.0.251", port))


def read_name(packet, at):
    """(labels, where it ends) of a possibly compressed name."""
    labels, end, hops = [], None, 0
    while packet[at]:
        if packet[at] & 0xC0 == 0xC0:
            end = end or at + 2
            at = (packet[at] & 0x3F) << 8 | packet[at + 1]
            hops += 1
            if hops > 20:
                raise ValueError("a loop of names")
        else:
            labels.append(packet[at + 1:at + 1 + packet[at]].decode(errors="replace"))
            at += 1 + packet[at]
    return labels, end or at + 1


def records(packet):
    """(labels, type, data, offset of the data) of every answer and additional record."""
    questions, *counts = struct.unpack(">HHHH", packet[4:12])
    at, found = 12, []
    for _ in range(questions):
        _, at = read_name(packet, at)
        at += 4
    for _ in range(sum(counts)):
        labels, at = read_name(packet, at)
        kind, _class, _ttl, length = struct.unpack(">HHIH", packet[at:at + 10])
        at += 10
        found.append((labels, kind, packet[at:at + length], at))
        at += length
    return found


def browse(address, port, wait=5):
    """{instance: {"port": n, "txt": {…}}} of everybody who answers."""
    group = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    group.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    group.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    group.bind(("", port))
    member = socket.inet_aton("224.0.0.251") + socket.inet_aton(address)
    group.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
    query = struct.pack(">HHHHHH", 0, 0, 1, 0, 0, 0) + name(SERVICE) + struct.pack(">HH", PTR, 1)
    send([query], address, port)
    group.settimeout(wait)
    found = {}
    try:
        while True:
            packet = group.recv(9000)
            for labels, kind, data, _ in records(packet):
                if labels[1:3] != ["_presence", "_tcp"]:
                    continue
                entry = found.setdefault(labels[0], {"txt": {}})
                if kind == SRV:
                    entry["port"] = struct.unpack(">H", data[4:6])[0]
                elif kind == TXT:
                    at = 0
                    while at < len(data):
                        text = data[at + 1:at + 1 + data[at]].decode(errors="replace")
                        key, _, value = text.partition("=")
                        entry["txt"][key] = value
                        at += 1 + data[at]
    except socket.timeout:
        return found
    finally:
        group.close()
