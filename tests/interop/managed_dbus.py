"""D-Bus tubes where Mission Control manages the accounts: it makes the channels and hands them to Handlers,
telepathy-glib's (glib_dbus.py) and the commands'."""
from command_line import OFFLINE, handlers, pair
from dbus_tubes import SERVICE
from home import *  # noqa: F403
from managed import Managed
from sharing import MPV, ROOT_INTERFACE, Playing, here, small_bus, tool
from telepathy_glib import do


# In the agents.

def load(folder):
    import sys
    sys.path.insert(0, folder)
    import glib_dbus
    kept["client"] = glib_dbus.ManagedClient()


# Here.

def client(person):
    """A program of a person's, by telepathy-glib."""
    agent = person.agent()
    agent.call(load, HERE)
    return agent


def takes(person, other, service):
    """Until `person` sees that a Handler of `other`'s waits for a service by D-Bus; gives the other's id."""
    contact, handle = person.sees(other)

    def announced():
        classes = person.on(person.path, CAPABILITIES, "GetContactCapabilities",
                            GLib.Variant("(au)", ([handle],))).get(handle, [])
        return any(fixed.get(DBUS_TUBE + ".ServiceName") == service for fixed, _ in classes)
    until(f"{person.name} sees that {service} is waited for", announced, detail=person.seen)
    return contact


def waits(agent):
    """Has a Handler wait for a tube that it accepts; `answer` when it has. It answers Mission Control meanwhile."""
    agent.call(do, "handle_dbus", SERVICE)
    agent.start(do, "take_dbus", SERVICE)


def opened(asks, answers):
    """A channel that was asked for is offered, accepted by who waits, and carries calls both ways."""
    asks.start(do, "offer_dbus")
    answers.answer()
    asks.answer()
    for one, other in ((asks, answers), (answers, asks)):
        # Whoever answers needs its main loop for that.
        other.start(do, "moved", 10)
        said = "checkmate, " * 20_000
        assert one.call(do, "play", said) == said[::-1]
        moves = [f"move {number}" for number in range(10)]
        one.call(do, "move", moves)
        assert other.answer() == moves


def fails(asks):
    """What is offered is not taken."""
    asks.start(do, "offer_dbus")
    try:
        asks.answer()
    except Failure as failure:
        assert "GLib.GError" in str(failure) or "gi.repository.GLib.Error" in str(failure), failure
    else:
        raise Failure("nobody took it and it was open")
    assert asks.call(do, "invalidated")


@scenario
def mission_control_hands_dbus_tubes_to_handlers():
    """TpDBusTubeChannel by create and by ensure, in both directions; what nobody waits for is turned down, and
    what a Handler held that is killed is closed."""
    port = free_port()
    alice, bob = Managed("alice", port=port), Managed("bob", port=port)
    hers, his = client(alice), client(bob)
    waits(his)
    to = takes(alice, bob, SERVICE)
    hers.call(do, "create_dbus", to, SERVICE)
    opened(hers, his)
    assert his.call(do, "close")
    assert hers.call(do, "invalidated")
    assert hers.call(do, "hung_up") and his.call(do, "hung_up")

    waits(hers)
    to_her = takes(bob, alice, SERVICE)
    path = his.call(do, "ensure_dbus", to_her, SERVICE)
    assert path.startswith(bob.path + "/DBusTube"), path
    # There is one, and it is in somebody's hands: other programs of his are told so.
    other = client(bob)
    his.start(do, "asked_again")
    told = other.call(do, "ensure_dbus", to_her, SERVICE)
    assert told == "Another Handler is handling this channel", told
    assert his.answer() == path
    opened(his, hers)

    # Its Handler dies; Mission Control closes what it held.
    hers.process.kill()
    assert his.call(do, "invalidated")
    assert his.call(do, "hung_up")
    his.call(do, "create_dbus", to_her, "com.example.Nobody")
    fails(his)


@scenario
def pneuma_shares_a_service_by_mission_control():
    """mpv through `pneuma offer` and `pneuma accept` as Handlers, at a small bus and, the other way round,
    under a name on the session bus; the accounts come and go with the commands."""
    alice, bob = pair()
    for person in (alice, bob):
        person.run(public(binary("pneuma")), "contacts")
        person.disconnected()
    ids = {person: person.of_account("NormalizedName") for person in (alice, bob)}
    own = ROOT_INTERFACE + ".theirs"
    for sharing, using in ((alice, bob), (bob, alice)):
        playing = Playing(sharing)
        option, address = small_bus(using)
        option, address, short = (option, address, "mpv") if sharing is alice else (
            ("--own", own), using.bus_address, "theirs")
        accepting = using.pneuma("accept", ids[sharing], f"dbus:{MPV}", *option)
        offering = sharing.pneuma("offer", f"dbus:{MPV}", "--to", ids[using])
        accepting.event("accepted")
        here(using, address, f"{ROOT_INTERFACE}.{short}")
        tool(using, address, "playerctl", f"--player={short}", "play")
        playing.becomes("PlaybackStatus", "Playing")
        assert accepting.interrupt() == 0
        offering.event("closed")
        assert offering.ends() == 0, offering.output()
        for person in (alice, bob):
            person.disconnected()
            assert person.of_account("RequestedPresence")[0] == OFFLINE
        playing.mpv.close()
    until("no Handler is left", lambda: handlers(alice) == handlers(bob) == [], detail=bob.seen)


@scenario
def pneuma_leaves_a_tube_that_shares_no_service_to_its_program():
    """`pneuma accept` says more of what it waits for than another Handler, so it is handed the other's tube first."""
    port = free_port()
    alice, bob = Managed("alice", port=port), Managed("bob", port=port)
    hers, his = client(alice), client(bob)
    accepting = bob.pneuma("accept", bob.sees(alice)[0], f"dbus:{SERVICE}")
    until("the command has a Handler", lambda: handlers(bob), detail=bob.seen)
    waits(his)
    hers.call(do, "create_dbus", takes(alice, bob, SERVICE), SERVICE)
    opened(hers, his)
    assert accepting.ends() == 4, accepting.output()
    # Its end is not the tube's.
    his.start(do, "moved", 11)
    hers.call(do, "move", ["still there"])
    assert his.answer()[-1] == "still there"
