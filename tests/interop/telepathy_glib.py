"""telepathy-glib on both sides, through GObject introspection (glib_client.py)."""
from home import *  # noqa: F403  (the tests' own vocabulary)


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

    def __init__(self, name, port, load=load):
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
