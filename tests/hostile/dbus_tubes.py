"""D-Bus tubes: other users of the machine at their sockets, and contacts that speak no D-Bus in them."""
import struct

from floods import settled, xml_port
from home import *  # noqa: F403  (the tests' own vocabulary)
from strangers import other_user_everywhere, silent

SERVICE = "com.example.Chess"
MIB = 1024 * 1024


def path_of(address):
    return address.removeprefix("unix:path=").split(",")[0]


def signal_of(body, serial=1, version=1, kind=4, endian=b"l", fields=None, length=None):
    """A signal as D-Bus's specification has it, or as it has it not."""
    if fields is None:
        fields = [field(1, b"o", text("/")), field(2, b"s", text(SERVICE)), field(3, b"s", text("Said")),
                  *([field(8, b"g", b"\2ay\0")] if body else [])]
    # The padding behind the last one is not counted.
    fields = b"".join(map(padded, fields[:-1])) + fields[-1]
    body = struct.pack("<I", len(body)) + body if body else b""
    length = len(body) if length is None else length
    return endian + struct.pack("<BBBIII", kind, 1, version, length, serial, len(fields)) + padded(fields) + body


def field(code, signature, value):
    return struct.pack("<BB", code, 1) + signature + b"\0" + value


def padded(data):
    return data + b"\0" * (-len(data) % 8)


def text(value):
    return struct.pack("<I", len(value)) + value.encode() + b"\0"


GOOD = signal_of(b"e4")
BAD = {
    "no D-Bus": b"GET / HTTP/1.1\r\nHost: example.com\r\n\r\n",
    "nothing but zeros": bytes(64),
    "another byte order": signal_of(b"", endian=b"x"),
    "no type": signal_of(b"", kind=0),
    "another type": signal_of(b"", kind=5),
    "another version": signal_of(b"", version=2),
    "no serial": signal_of(b"", serial=0),
    "more than 128 MiB": signal_of(b"", length=128 * MIB),
    "4 GiB": signal_of(b"", length=0xFFFFFFFF),
    "fields of 65 MiB": GOOD[:12] + struct.pack("<I", 65 * MIB) + GOOD[16:],
    "fields that are none": signal_of(b"", fields=[b"\xff" * 64]),
    "descriptors": signal_of(b"", fields=[field(1, b"o", text("/")), field(9, b"u", struct.pack("<I", 1))]),
}


class Tubes(Home):
    """Alice and Bob with an open D-Bus tube."""

    def __init__(self, **options):
        super().__init__(tube=False, **options)
        self.tube = self.alice.create_tube(self.alice.handle_of("bob"), SERVICE, DBUS_TUBE)
        self.door = self.alice.offer_dbus(self.tube)
        self.accepted = self.bob.offered(SERVICE)
        self.bobs_door = self.bob.accept_dbus(self.accepted)
        self.bob.opens(self.accepted)
        self.works()

    def works(self, size=100_000):
        """An application at each end; a message goes each way."""
        for agent, door in ((self.at_alice, self.door), (self.at_bob, self.bobs_door)):
            assert agent.call(enter, "honest", path_of(door)) == "OK"
        for one, other in ((self.at_alice, self.at_bob), (self.at_bob, self.at_alice)):
            message = signal_of(os.urandom(size))
            one.call(write, "honest", message.hex())
            assert other.call(read, "honest", len(message)) == message.hex()
        for agent in (self.at_alice, self.at_bob):
            agent.call(leave, "honest")


# In the agents.

def enter(name, path):
    """Connects as an application does and says who it is; gives the first word of the answer."""
    import os
    import socket
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(20)
    client.connect(path)
    client.sendall(b"\0AUTH EXTERNAL " + str(os.getuid()).encode().hex().encode() + b"\r\n")
    answer = b""
    while not answer.endswith(b"\r\n") and (part := client.recv(4096)):
        answer += part
    client.sendall(b"BEGIN\r\n")
    kept[name] = client
    return answer.decode().split()[0] if answer else ""


def write(name, data):
    kept[name].sendall(bytes.fromhex(data))


def read(name, count):
    """Reads so much, or what there is before the end."""
    got = b""
    while len(got) < count and (part := kept[name].recv(count - len(got))):
        got += part
    return got.hex()


def drain(name):
    """Reads to the end; gives how much there was."""
    got = 0
    try:
        while part := kept[name].recv(65536):
            got += len(part)
    except ConnectionResetError:
        pass
    return got


def leave(name):
    kept.pop(name).close()


def meet(own, victim, address, port):
    import bad_peer
    kept["bad"] = bad_peer.BadPeer(own, victim, address, port)


def offer(service, number):
    kept["bad"].offer(service, number)


def send(data, wait):
    return kept["bad"].send(bytes.fromhex(data), wait)


def endless(start, wait):
    """Begins a message and goes on until nothing more is taken; gives how much was."""
    taken = kept["bad"].send(bytes.fromhex(start), wait)
    while (more := kept["bad"].send(bytes(1 << 18), wait)) == 1 << 18:
        taken += more
    return taken + more


def hang_up():
    kept.pop("bad").stream.close()


@scenario
def another_user_at_every_socket_dbus():
    """Another user of the machine, and root, at both ends of a D-Bus tube and at everything else."""
    home = Tubes()
    doors = [path_of(home.door), path_of(home.bobs_door)]
    assert doors[0] in unix_sockets(home.alice) and doors[1] in unix_sockets(home.bob)
    other_user_everywhere(home)
    for person, door in zip((home.alice, home.bob), doors):
        root = home.mallory(uid=0, machine=person.machine)
        # A hundred of another user's take nobody's place.
        ended, _longest = root.call(silent, door, 100)
        assert ended == 100
    home.works()


@scenario
def a_contact_that_speaks_no_dbus():
    """What is no message, too large, or never ends closes that tube, with nothing of it passed on; the
    service and the honest tube live."""
    home = Tubes(parameters={"require-encryption": GLib.Variant("b", False)})
    before = home.alice.manager.usage()
    mallory, own, at = home.mallory(), "mallory@venus", home.lan.mallory.address
    mallory.call(multicast, "claim", [own, "venus", at, 5298], at, home.port, 3)
    home.alice.sees("mallory", able=False)
    mallory.call(meet, own, home.bob.sees("alice")[0], home.lan.alice.address, xml_port(home))

    def opened(number):
        mallory.start(offer, SERVICE, number)
        tube = home.alice.offered(SERVICE)
        door = home.alice.accept_dbus(tube)
        home.alice.opens(tube)
        mallory.answer()
        assert home.at_alice.call(enter, "app", path_of(door)) == "OK"
        return tube

    for number, (what, data) in enumerate(BAD.items(), 1):
        tube = opened(number)
        assert mallory.call(send, GOOD.hex(), 20) == len(GOOD), what
        assert home.at_alice.call(read, "app", len(GOOD)) == GOOD.hex(), what
        mallory.call(send, data.hex(), 20)
        home.alice.closed(tube)
        assert home.at_alice.call(drain, "app") == 0, what

    # A message of 120 MiB that nobody reads: it is held up, and what is kept of it is little.
    tube = opened(100)
    start = signal_of(b"x", length=120 * MIB)
    taken = mallory.call(endless, start.hex(), 3)
    grown = (home.alice.manager.usage()[2] - before[2]) * 1024
    assert MIB // 2 < taken < 24 * MIB and grown < 24 * MIB, (taken, grown)
    home.works()
    # It is never finished.
    mallory.call(hang_up)
    home.at_alice.call(drain, "app")
    home.alice.closed(tube)
    home.works()
    settled(home.alice, before, "a contact that speaks no D-Bus")
