#!/usr/bin/python3
"""Real clients on both sides: two connection managers, two buses, programs nobody here wrote.

usage: run.py [WORD…]   runs the scenarios whose name holds one of the words
"""
import os
import subprocess
import sys

sys.dont_write_bytecode = True
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "support"))
from network import Lan, Machine  # noqa: E402,F401
from person import *  # noqa: E402,F403  (the tests' own vocabulary)

scenario = Runner()


# In the agents.

def load(folder):
    import sys
    sys.path.insert(0, folder)
    import glib_client
    kept["client"] = glib_client.Client()


def do(method, *arguments):
    return getattr(kept["client"], method)(*arguments)


class Side:
    """A person without a connection of the test's own: telepathy-glib makes it."""

    def __init__(self, name, port):
        self.person = Person(name, port=port, online=False)
        self.agent = self.person.agent()
        self.agent.call(load, HERE)

    def __getattr__(self, method):
        return lambda *arguments: self.agent.call(do, method, *arguments)


def pair(service):
    """Alice and Bob online by telepathy-glib, Bob with a service announced."""
    port = free_port()
    alice, bob = Side("alice", port), Side("bob", port)
    alice.id = alice.connect("alice", port)
    bob.id = bob.connect("bob", port)
    bob.announce(service)
    alice.announce(service)
    return alice, bob


@scenario
def telepathy_glib_reads_the_connection_manager():
    """TpConnectionManager and TpProtocol see what the specification promises."""
    side = Side("alice", free_port())
    seen = side.describe_manager()
    assert seen["running"] and seen["protocols"] == ["local-xmpp"], seen
    assert seen["tubes"] and seen["required"] == [], seen
    assert seen["icon"] == "im-local-xmpp" and seen["english"], seen
    for name in ("published-name", "nickname", "require-encryption"):
        assert name in seen["parameters"], seen


@scenario
def telepathy_glib_offers_and_accepts_on_both_sides():
    """TpStreamTubeChannel on both sides: contacts, capabilities, offer, accept, bytes, close."""
    alice, bob = pair("x-echo")
    alias, presence, status = alice.sees(bob.id, "x-echo")
    assert alias and presence == 2 and status == "available", (alias, presence, status)
    bob.sees(alice.id, "x-echo")
    alice.offer(bob.id, "x-echo")
    # TpStreamTubeConnection comes from accept_async, which waits for the connection through the
    # tube: so Alice's main loop must run at the same time.
    bob.agent.start(do, "accept", "x-echo")
    came = alice.served(1)
    accepted = bob.agent.answer()
    assert accepted["from"] == alice.id, accepted
    assert accepted["parameters"] == {}, accepted
    assert came == [bob.id], came
    text = "through the tube and back. " * 5000
    assert bob.exchange(text) == text
    assert alice.close()
    assert bob.invalidated()


@scenario
def telepathy_glib_takes_what_the_other_side_closes():
    """The accepting side closes: the offering side's channel goes too."""
    alice, bob = pair("x-echo")
    alice.sees(bob.id, "x-echo")
    alice.offer(bob.id, "x-echo")
    bob.agent.start(do, "accept", "x-echo")
    alice.served(1)
    bob.agent.answer()
    assert bob.exchange("once") == "once"
    assert bob.close()
    assert alice.invalidated()


REQUIRED = {
    "manager": ["org.freedesktop.Telepathy.ConnectionManager"],
    "protocol": ["org.freedesktop.Telepathy.Protocol",
                 "org.freedesktop.Telepathy.Protocol.Interface.Presence"],
    "connection": ["org.freedesktop.Telepathy.Connection", REQUESTS,
                   CONNECTION + ".Interface.Contacts", CONTACT_LIST, PRESENCE, ALIASING, CAPABILITIES],
    "channel": [CHANNEL, TUBE, STREAM_TUBE],
}


@scenario
def objects_are_what_the_specification_says():
    """check-introspection finds no difference on any object, where the checker is beside the tree."""
    checker = os.path.join(ROOT, "..", "shared", "tools", "check-introspection")
    port = free_port()
    alice, bob = Person("alice", port=port), Person("bob", port=port)
    echo = bob.agent()
    address = alice.agent().call(echo_server, ["tcp", "127.0.0.1", 0])
    requested = alice.create_tube(alice.handle_of("bob"), "x-echo")
    alice.offer(requested, address)
    incoming = bob.offered("x-echo")
    objects = [(alice, "manager", CM_PATH), (alice, "protocol", CM_PATH + "/local_xmpp"),
               (alice, "connection", alice.path), (alice, "channel", requested),
               (bob, "channel", incoming)]
    for person, kind, path in objects:
        xml = person.on(path, "org.freedesktop.DBus.Introspectable", "Introspect")
        for interface in REQUIRED[kind]:
            assert f'<interface name="{interface}">' in xml, (path, interface)
        listed = person.property(path, REQUIRED[kind][0], "Interfaces")
        for interface in REQUIRED[kind][1:]:
            # A channel's type is not among its interfaces.
            assert interface in listed or interface == STREAM_TUBE, (path, interface, listed)
        if os.path.exists(checker):
            checked = subprocess.run(
                ["/usr/bin/python3", checker, CM_NAME, path, "--require", *REQUIRED[kind]],
                env=person.env(), capture_output=True, text=True)
            print(f"   {kind}: {checked.stdout.strip().splitlines()[-1:]}")
            assert checked.returncode == 0, checked.stdout + checked.stderr
    if not os.path.exists(checker):
        print("   (check-introspection is not beside this tree: only the interfaces were compared)")
    echo.close()


if __name__ == "__main__":
    sys.exit(scenario.main())
