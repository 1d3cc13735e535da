"""Avahi works: it and the built-in discovery see each other."""
from machine import *  # noqa: F403


def set_presence(someone, status, message):
    someone.on(someone.path, PRESENCE, "SetPresence", GLib.Variant("(ss)", (status, message)))


def presence(someone, handle):
    return someone.on(someone.path, PRESENCE, "GetPresences", GLib.Variant("(au)", ([handle],)))[handle]


def carries(offerer, other, service="x-echo"):
    """A tube from one to the other carries bytes."""
    at_other = other.agent()
    echo = offerer.agent().call(echo_server, ["tcp", "127.0.0.1", 0])
    other.sees(offerer.name)
    channel = offerer.create_tube(offerer.handle_of(other.name), service)
    offerer.offer(channel, echo)
    accepted = other.offered(service)
    door = other.accept(accepted, IPV4)
    assert at_other.call(exchange, door, 1_000_000) == 1_000_000
    return at_other, door, channel


def see_each_other(alice, bob):
    """Presence crosses both ways, and again when it changes."""
    of_bob, of_alice = alice.handle_of("bob"), bob.handle_of("alice")
    detail = lambda: alice.seen() + bob.seen()
    for round in (1, 2):
        set_presence(alice, "away", f"at lunch {round}")
        until("Bob sees that Alice is away", lambda: presence(bob, of_alice) == (3, "away", f"at lunch {round}"),
              detail=detail)
        set_presence(bob, "dnd", f"writing {round}")
        until("Alice sees that Bob is busy", lambda: presence(alice, of_bob) == (6, "dnd", f"writing {round}"),
              detail=detail)


def leaves(who, other):
    """A goodbye is heard at once, long before a record's lifetime ends."""
    handle = other.handle_of(who.name)
    who.on(who.path, CONNECTION, "Disconnect")
    until("the other is seen to be gone", lambda: presence(other, handle)[0] == 1, 15, other.seen)


@scenario
def avahi_on_one_side():
    """Alice by Avahi, Bob by himself: presence both ways, a tube, goodbyes."""
    lan = Lan("alice", "bob")
    system = SystemBus(lan.alice, "alice")
    alice = person("alice", lan.alice, ALICE, "auto", system)
    bob = person("bob", lan.bob, BOB, "auto")
    see_each_other(alice, bob)
    assert (found_by(alice), found_by(bob)) == ("avahi", "built-in")
    carries(alice, bob)
    leaves(alice, bob)
    alice.signals.clear(), alice.taken.clear()
    alice.go_online()
    bob.sees("alice")
    alice.sees("bob")
    leaves(bob, alice)


@scenario
def avahi_on_both_sides():
    """Both by Avahi, on all interfaces: the same, and a tube the other way."""
    lan = Lan("alice", "bob")
    everywhere = {"pneuma-interface": GLib.Variant("s", "")}
    alice, bob = (person(name, machine, uid, "avahi", SystemBus(machine, name), parameters=everywhere)
                  for name, machine, uid in (("alice", lan.alice, ALICE), ("bob", lan.bob, BOB)))
    see_each_other(alice, bob)
    carries(bob, alice)
    leaves(bob, alice)


@scenario
def one_machine_and_no_network():
    """Two users of one machine that has no network, by its one daemon: over loopback."""
    lan = Lan("alice")
    run("ip", "-n", lan.alice.namespace, "link", "set", "eth0", "down")
    system = SystemBus(lan.alice, "alice")
    for interface in ("lo", ""):
        only = {"pneuma-interface": GLib.Variant("s", interface)}
        alice = person("alice", lan.alice, ALICE, "avahi", system, parameters=only)
        bob = person("bob", lan.alice, BOB, "avahi", system, parameters=only)
        see_each_other(alice, bob)
        carries(alice, bob)
        alice.close(), bob.close()
