"""The daemon is absent, slow, restarted or gone for good; names are taken."""
import time

from machine import *  # noqa: F403
from together import carries, presence, see_each_other, set_presence


def pair(discovery="auto"):
    """Alice by Avahi, Bob by himself, a tube between them with a connection that is held open."""
    lan = Lan("alice", "bob")
    system = SystemBus(lan.alice, "alice")
    alice = person("alice", lan.alice, ALICE, discovery, system)
    bob = person("bob", lan.bob, BOB, "built-in")
    at_bob, door, channel = carries(alice, bob)
    assert found_by(alice) == "avahi"
    alice.signals.clear(), alice.taken.clear()
    bob.signals.clear(), bob.taken.clear()
    return alice, bob, system, lambda: at_bob.call(exchange, door, 100_000)


def nobody_left(*people):
    """No contact was seen to go, and no tube was closed."""
    for someone in people:
        for path, interface, member, arguments in someone.signals:
            assert member not in ("Closed", "ContactsChangedWithID"), someone.seen()
            if member == "PresencesChanged":
                gone = [each for each, (kind, _, _) in arguments[0].items() if kind == 1]
                assert not gone, someone.seen()


def offline_because(someone):
    """Waits until an account goes offline by itself; gives the reason."""
    row = someone.take("ConnectionError", lambda path, interface, member, arguments:
                       member == "ConnectionError" and path == someone.path, 60)
    name, details = row[3]
    assert name == "org.freedesktop.Telepathy.Error.NetworkError", row
    return details["debug-message"]


@scenario
def no_daemon_at_all():
    """A system bus without the daemon, and none: built in at once; an error where Avahi is demanded."""
    lan = Lan("alice", "bob")
    system = SystemBus(lan.alice, "alice", avahi=False)
    begun = time.monotonic()
    alice = person("alice", lan.alice, ALICE, "auto", system)
    bob = person("bob", lan.bob, BOB, "auto")
    assert time.monotonic() - begun < 20
    see_each_other(alice, bob)
    assert (found_by(alice), found_by(bob)) == ("built-in", "built-in")
    assert said(alice, "no Avahi daemon runs")
    for machine, bus in ((lan.alice, system), (lan.bob, None)):
        carol = person("carol", machine, MALLORY, "avahi", bus, online=False)
        carol.request()
        why = offline_because(carol)
        assert "no Avahi daemon runs" in why or "no system bus" in why, why
        carol.close()


@scenario
def the_daemon_restarts():
    """Nobody is lost meanwhile, the tube lives on; afterwards we are announced and hear again."""
    alice, bob, system, works = pair()
    for _ in range(2):
        system.stop()
        until("Alice notices", lambda: said(alice, "Avahi is gone"), detail=alice.seen)
        works()
        system.start()
        see_each_other(alice, bob)
    # Ten seconds after browsing anew, whoever was not heard of is gone.
    settle(12)
    handle = alice.handle_of("bob")
    assert presence(alice, handle)[0] == 6, alice.seen()
    nobody_left(alice)
    works()
    assert found_by(alice) == "avahi", alice.seen()


@scenario
def the_daemon_never_comes_back():
    """After half a minute discovery is built in; who left meanwhile is gone then."""
    alice, bob, system, works = pair()
    lan = alice.machine.lan
    carol = person("carol", lan.bob, MALLORY, "built-in")
    of_carol = alice.handle_of("carol")
    system.stop()
    carol.on(carol.path, CONNECTION, "Disconnect")
    until("discovery is built in", lambda: found_by(alice) == "built-in", 60, alice.seen)
    see_each_other(alice, bob)
    until("Carol is seen to be gone", lambda: presence(alice, of_carol)[0] == 1, 30, alice.seen)
    works()


@scenario
def a_daemon_that_is_demanded_never_comes_back():
    """Where nothing but Avahi may be used, the account goes offline and says why."""
    alice, _, system, _ = pair("avahi")
    system.stop()
    why = offline_because(alice)
    assert "the Avahi daemon has been gone for 30 seconds" in why, why


@scenario
def a_daemon_that_hangs_at_first():
    """A daemon that does not answer delays going online by a few seconds, and changes nothing else."""
    lan = Lan("alice", "bob")
    system = SystemBus(lan.alice, "alice")
    system.freeze()
    begun = time.monotonic()
    alice = person("alice", lan.alice, ALICE, "auto", system)
    assert time.monotonic() - begun < 15
    assert found_by(alice) == "built-in" and said(alice, "does not answer")
    bob = person("bob", lan.bob, BOB, "built-in")
    see_each_other(alice, bob)
    carries(alice, bob)
    # What it was asked before it is forgotten when it wakes.
    system.thaw()
    until("Avahi serves", system.serves)
    see_each_other(alice, bob)


@scenario
def a_daemon_that_hangs_for_a_while():
    """Presence that changes meanwhile arrives once it goes on; disconnecting does not wait for it."""
    alice, bob, system, works = pair()
    of_alice = bob.handle_of("alice")
    system.freeze()
    set_presence(alice, "away", "while it hangs")
    until("Alice notices", lambda: said(alice, "Avahi does not answer"), detail=alice.seen)
    works()
    system.thaw()
    until("Bob sees the change", lambda: presence(bob, of_alice) == (3, "away", "while it hangs"), 60, bob.seen)
    see_each_other(alice, bob)
    works()
    system.freeze()
    begun = time.monotonic()
    alice.on(alice.path, CONNECTION, "Disconnect")
    assert time.monotonic() - begun < 8, time.monotonic() - begun
    # Its own goodbye is not said before it wakes; then it is, because we are gone from the bus.
    system.thaw()
    until("Alice is seen to be gone", lambda: presence(bob, of_alice)[0] == 1, 40, bob.seen)


@scenario
def a_daemon_that_hangs_for_good():
    """Discovery is built in after a while; the daemon that wakes later takes nothing away."""
    alice, bob, system, works = pair()
    system.freeze()
    until("discovery is built in", lambda: found_by(alice) == "built-in", 120, alice.seen)
    see_each_other(alice, bob)
    system.thaw()
    until("Avahi serves", system.serves)
    settle(5)
    see_each_other(alice, bob)
    works()


@scenario
def names_that_are_taken():
    """Somebody else on the network, and on the same machine by the same daemon: each gets another name."""
    lan = Lan("alice", "bob")
    systems = [SystemBus(lan.alice, "one"), SystemBus(lan.bob, "two")]
    people = []
    for machine, uid, discovery, system in (
            (lan.bob, BOB, "built-in", None), (lan.alice, ALICE, "avahi", systems[0]),
            (lan.alice, MALLORY, "avahi", systems[0]), (lan.bob, MALLORY, "avahi", systems[1])):
        people.append(person("twin", machine, uid, discovery, system))
    host = os.uname().nodename.split(".")[0][:20]

    def names():
        return {someone.on(someone.path, "org.freedesktop.DBus.Properties", "Get",
                           GLib.Variant("(ss)", (CONNECTION, "SelfID"))) for someone in people}
    wanted = {f"twin@{host}"} | {f"twin@{host} #{number}" for number in (2, 3, 4)}
    until("each has a name", lambda: names() == wanted, detail=lambda: str(names()) + people[-1].seen())

    def others(someone):
        return {contact for contact, (_, kind, _) in someone.contacts().items() if kind > 1}
    for someone in people:
        own = someone.property(someone.path, CONNECTION, "SelfID")
        until("everybody sees the others", lambda: others(someone) - {own} >= wanted - {own}, detail=someone.seen)
