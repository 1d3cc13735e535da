"""Alice and Bob with a tube on a network that others are on too."""
import os
import sys

sys.dont_write_bytecode = True
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "support"))
from network import Lan, Machine  # noqa: E402,F401
from person import *  # noqa: E402,F403  (the tests' own vocabulary)

# What agents import.
MODULES = ("mdns.py", "middle.py", "bad_peer.py")

scenario = Runner()


class Home:
    """Alice offers an echo to Bob, who accepts on `kind` of socket with this access control."""

    def __init__(self, *more, kind=IPV4, access=LOCALHOST, tube=True, neighbours=(), **options):
        self.lan = Lan("alice", "bob", "mallory", *neighbours)
        self.port = free_port()
        self.alice = Person("alice", self.lan.alice, ALICE, self.port, **options)
        self.bob = Person("bob", self.lan.bob, BOB, self.port, **options)
        self.at_alice, self.at_bob = self.alice.agent(), self.bob.agent()
        self.echo = self.at_alice.call(echo_server, ["tcp", "127.0.0.1", 0])
        if tube:
            self.make_tube(kind, access)

    def make_tube(self, kind=IPV4, access=LOCALHOST):
        self.tube = self.alice.create_tube(self.alice.handle_of("bob"), "x-echo")
        self.bob.sees("alice")
        self.alice.offer(self.tube, self.echo)
        self.accepted = self.bob.offered("x-echo")
        self.door = self.bob.accept(self.accepted, kind, access)
        self.works()

    def works(self, size=100_000):
        """The tube carries bytes, on a new connection."""
        try:
            assert self.at_bob.call(exchange, self.door, size) == size
        except Failure as failure:
            raise Failure(f"{failure}\n{self.alice.seen()}\n{self.bob.seen()}") from None

    def echoed(self):
        """How many connections Alice's service has had."""
        return self.at_alice.call(count_echo)

    def mallory(self, uid=MALLORY, machine=None):
        """A stranger's process on the stranger's machine, or elsewhere."""
        made = Agent(machine or self.lan.mallory, uid)
        made.call(load, [public(os.path.join(HERE, module)) for module in MODULES])
        return made

    def middle(self, both_ways=True):
        """Puts a man between Alice and Bob. Alice takes his machine for Bob's, and, both ways, Bob his for
        Alice's. Both ways he cannot hide that streams come from another address, so that bytestreams,
        which go to a stream's own address only, fail; one way he passes everything on."""
        self.poisoned = []
        namespaces = [self._impersonate("towards_alice", self.lan.bob, self.lan.alice)]
        if both_ways:
            namespaces.append(self._impersonate("towards_bob", self.lan.alice, self.lan.bob))
        agent = Agent(Machine(), None)
        agent.call(load, [public(os.path.join(HERE, module)) for module in MODULES])
        agent.call(start_middle, self.lan.mallory.namespace, self.alice.dir, namespaces)
        return agent

    def _impersonate(self, name, impersonated, victim):
        machine = self.lan.machines[name]
        inside = ["ip", "-n", machine.namespace]
        link = run(*inside, "-brief", "link", "show", "eth0").split()[2]
        run("ip", "netns", "exec", machine.namespace, "sh", "-c",
            "echo 1 >/proc/sys/net/ipv4/conf/all/arp_ignore")
        # Takes what is meant for somebody else as its own, and answers no ARP for it.
        for address in addresses(impersonated):
            run(*inside, "addr", "add", address, "dev", "lo", *(["nodad"] if ":" in address else []))
            neighbour = ["ip", "-n", victim.namespace, "neigh", "replace", address.split("/")[0],
                         "lladdr", link, "dev", "eth0", "nud", "permanent"]
            run(*neighbour)
            self.poisoned.append(neighbour)
        for family in ("ip", "ip6"):
            nft = ["ip", "netns", "exec", machine.namespace, "nft"]
            run(*nft, "add", "table", family, "nat")
            run(*nft, "add", "chain", family, "nat", "in", "{ type nat hook prerouting priority -100; }")
            run(*nft, "add", "rule", family, "nat", "in", "iifname", "eth0", "tcp", "dport", "1-65535",
                "redirect", "to", ":9999")
        return machine.namespace

    def honest(self):
        """Takes the man in the middle away."""
        for neighbour in self.poisoned:
            run(*["del" if word == "replace" else word for word in neighbour[:6]], "dev", "eth0")
        self.poisoned = []


def addresses(machine):
    """What an interface answers to, with prefix lengths for one host. Its link-local address too: a
    stream goes there when that is the first that is found."""
    rows = run("ip", "-n", machine.namespace, "-brief", "addr", "show", "eth0").split()[2:]
    return [row.split("/")[0] + ("/128" if ":" in row else "/32") for row in rows]


def listening(machine):
    """[(address, port)] of every TCP listener on a machine, from /proc."""
    import ipaddress
    import struct
    found = []
    for table in ("tcp", "tcp6"):
        rows = run(*machine.prefix(), "cat", f"/proc/net/{table}").splitlines()[1:]
        for row in rows:
            _, local, _, state = row.split()[:4]
            if state != "0A":
                continue
            address, port = local.split(":")
            words = [int(address[at:at + 8], 16) for at in range(0, len(address), 8)]
            raw = b"".join(struct.pack("=I", word) for word in words)
            found.append((str(ipaddress.ip_address(raw)), int(port, 16)))
    return found


def unix_sockets(person):
    """Paths of the connection manager's own Unix sockets, named and abstract."""
    inodes = set()
    for descriptor in os.listdir(f"/proc/{person.manager.pid}/fd"):
        try:
            target = os.readlink(f"/proc/{person.manager.pid}/fd/{descriptor}")
        except OSError:
            continue
        if target.startswith("socket:["):
            inodes.add(target[8:-1])
    rows = run(*person.machine.prefix(), "cat", "/proc/net/unix").splitlines()[1:]
    return [row.split()[7] for row in rows
            if len(row.split()) > 7 and row.split()[6] in inodes and row.split()[5] == "01"]


# In the agents.

def load(modules):
    import os
    import sys
    sys.path.insert(0, os.path.dirname(modules[0]))


def count_echo():
    return kept.get("echo_connections", 0)


def start_middle(outside, folder, namespaces):
    import middle
    kept["middle"] = middle.Middle(outside, folder)
    for namespace in namespaces:
        kept["middle"].listen(namespace, 9999)


def set_mode(mode):
    kept["middle"].mode = mode
    kept["middle"].seen.clear()


def seen_in_the_middle():
    """[(what, text)] of what passed."""
    return [[what, data.decode("latin-1")] for what, data in list(kept["middle"].seen)]


def stolen_in_the_middle():
    return [[code, data.hex()] for code, data in kept["middle"].stolen]


def handshakes_in_the_middle():
    return list(kept["middle"].handshakes)


def multicast(what, arguments, address, port, times):
    """Sends one of mdns.py's packets to the group."""
    import mdns
    import time
    for _ in range(times):
        mdns.send([getattr(mdns, what)(*arguments)], address, port)
        time.sleep(0.3)


def look_around(address, port):
    import mdns
    return mdns.browse(address, port, 3)


def hold_a_connection(address):
    """Connects and keeps the connection in `kept`; sends a greeting through it."""
    import socket
    if address[0] == "unix":
        held = socket.socket(socket.AF_UNIX)
        held.connect(address[1])
        held.sendall(bytes.fromhex("".join(address[2:])))
    else:
        held = socket.create_connection((address[1], address[2]), 20)
    held.settimeout(20)
    held.sendall(b"hello")
    assert held.recv(5) == b"hello"
    kept["held"] = held


def use_held_connection():
    kept["held"].sendall(b"still")
    return kept["held"].recv(5).decode()
