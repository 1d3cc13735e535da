"""Our command line where Mission Control manages the account: online by the AccountManager, tubes by the
ChannelDispatcher, and other programs' tubes untouched."""
from home import *  # noqa: F403
from introspection import check
from managed import Managed

OFFLINE, ONLINE = 1, 2


def pair():
    """Alice and Bob with accounts that are offline, and Bob's id as Alice sees it."""
    port = free_port()
    alice, bob = (Managed(name, online=False, port=port) for name in ("alice", "bob"))
    for person in (alice, bob):
        person.create_account()
    return alice, bob


def waits_for(person, other, service):
    """Until `person` sees that somebody at `other`'s waits for a service; gives the other's id."""
    contact = person.sees(other)[0]
    until(f"{person.name} sees that {service} is waited for",
          lambda: service in (person.contacts()[contact][2] or ()), detail=person.seen)
    return contact


def address_of(event):
    host, port = event["address"].rsplit(":", 1)
    return ["tcp", host, int(port)]


# In an agent: somebody else's Handler, telepathy-glib's own.

def handle(service):
    """Registers a Handler for a service; its tubes are accepted and echoed into."""
    import threading
    import gi
    gi.require_version("TelepathyGLib", "0.12")
    from gi.repository import GLib, TelepathyGLib as Tp
    channel = "org.freedesktop.Telepathy.Channel"
    kept["tubes"] = []

    def accepted(tube, result):
        kept["tubes"].append(tube.accept_finish(result))

    def handle_channels(_handler, _account, _connection, channels, _requests, _time, context, *_):
        for each in channels:
            kept.setdefault("channels", []).append(each)
            each.accept_async(accepted)
        context.accept()
    handler = Tp.SimpleHandler.new(Tp.DBusDaemon.dup(), True, False, "Other", False, handle_channels, None)
    handler.add_handler_filter_vardict(GLib.Variant("a{sv}", {
        channel + ".ChannelType": GLib.Variant("s", channel + ".Type.StreamTube"),
        channel + ".TargetHandleType": GLib.Variant("u", 1),
        channel + ".Type.StreamTube.Service": GLib.Variant("s", service),
        channel + ".Requested": GLib.Variant("b", False)}))
    handler.register()
    kept["handler"] = handler
    threading.Thread(target=GLib.MainLoop().run, daemon=True).start()


def handled(text):
    """Waits for the Handler's tube and sends a text through it; gives what came back."""
    import time
    deadline = time.monotonic() + 30
    while not kept["tubes"] and time.monotonic() < deadline:
        time.sleep(0.05)
    stream = kept["tubes"].pop().get_socket_connection()
    stream.get_output_stream().write_all(text.encode(), None)
    got = b""
    while len(got) < len(text.encode()):
        part = stream.get_input_stream().read_bytes(65536, None).get_data()
        if not part:
            break
        got += part
    stream.close(None)
    return got.decode()


@scenario
def pneuma_offers_and_accepts_by_mission_control():
    """pneuma accept and offer on both sides, beside another program's Handler that gets its own."""
    alice, bob = pair()
    other = bob.agent()
    other.call(handle, "x-other")
    echo = ["tcp", "127.0.0.1", alice.agent().call(echo_server, ["tcp", "127.0.0.1", 0])[2]]
    at = f"127.0.0.1:{echo[2]}"
    # Once online and offline again, an account has a name.
    for person in (alice, bob):
        person.run(public(binary("pneuma")), "contacts")
        person.disconnected()
    alice_id, bob_id = (person.of_account("NormalizedName") for person in (alice, bob))
    accepting = bob.pneuma("accept", alice_id, "x-files")
    offering = alice.pneuma("offer", "x-files", at, "--to", bob_id)
    alice.connected()
    bob.connected()
    assert bob.of_account("RequestedPresence")[0] == ONLINE
    offering.event("offered")
    accepted = accepting.event("accepted")
    assert bob.agent().call(exchange, address_of(accepted), 5_000_000) == 5_000_000
    offering.event("connection-closed")
    name, = handlers(bob)
    # Nothing can come before somebody waits for it.
    assert appeared(bob, name) < appeared(bob, bob.connection)
    check(bob, name, "/" + name.replace(".", "/"), [TP + "Client", TP + "Client.Handler"])

    # What others wait for goes to them, what nobody waits for is turned down.
    waits_for(alice, bob, "x-other")
    theirs = alice.pneuma("offer", "x-other", at, "--to", bob_id)
    theirs.event("offered")
    text = "for somebody else. " * 3000
    assert other.call(handled, text) == text
    nobodys = alice.pneuma("offer", "x-nobody", at, "--to", bob_id)
    assert nobodys.ends() == 4, nobodys.output()

    # A second offer of the same service does not disturb the first; another command takes it.
    second = bob.pneuma("accept", "alice", "x-files")
    until("both of bob's commands have a Handler", lambda: len(handlers(bob)) == 2, detail=bob.seen)
    again = alice.pneuma("offer", "x-files", at, "--to", bob_id)
    again.event("offered")
    places = [address_of(accepted), address_of(second.event("accepted"))]
    assert places[0] != places[1]
    for place in places:
        assert bob.agent().call(exchange, place, 100_000) == 100_000

    # Each ends by itself; the account goes with the last.
    assert second.interrupt() == 0
    again.event("closed")
    assert again.ends() == 0, again.output()
    assert bob.agent().call(exchange, places[0], 1000) == 1000
    for person in (alice, bob):
        assert person.of_account("ConnectionStatus") == 0
    assert accepting.interrupt() == 0
    bob.disconnected()
    assert bob.of_account("RequestedPresence")[0] == OFFLINE
    for command in (offering, theirs):
        command.event("closed")
        assert command.ends() == 0, command.output()
    alice.disconnected()
    # The bus notices the end of a program a moment later.
    until("no Handler is left", lambda: handlers(alice) == handlers(bob) == [], detail=bob.seen)


@scenario
def pneuma_leaves_an_account_online_that_its_user_wants_online():
    """What Mission Control's user brought online stays; contacts, tubes, status and disconnect agree."""
    alice, bob = pair()
    status = lambda: json.loads(alice.run(public(binary("pneuma")), "--json", "status"))
    assert status() == {"running": False, "accounts": []}, status()
    alice.request_presence("away")
    alice.connected()
    shown, = status()["accounts"]
    assert shown["account"] == alice.account_path and shown["status"] == "online", shown
    assert json.loads(alice.run(public(binary("pneuma")), "--json", "tubes")) == []
    # Bob's comes and goes with the command; Alice's stays as her user set it.
    watching = bob.pneuma("contacts", "--watch")
    until("bob's command sees alice", lambda: any(
        line["contact"]["presence"] == "away" for line in watching.lines()), detail=watching.output)
    bob.connected()
    alice.sees("bob")
    listed = json.loads(alice.run(public(binary("pneuma")), "--json", "contacts"))
    assert [contact["id"].split("@")[0] for contact in listed] == ["bob"], listed
    assert alice.of_account("CurrentPresence")[:2] == (3, "away")
    # Who changes the presence while a command runs wants the account online.
    bob.request_presence("dnd")
    until("bob is busy", lambda: bob.of_account("CurrentPresence")[0] == 6, detail=bob.seen)
    assert watching.interrupt() == 0
    assert bob.of_account("ConnectionStatus") == 0
    bob.run(public(binary("pneuma")), "disconnect")
    bob.disconnected()
    assert bob.of_account("RequestedPresence")[0] == OFFLINE
    # And with --detach it stays, whoever brought it online.
    bob.run(public(binary("pneuma")), "contacts", "--detach")
    bob.connected()
    assert bob.of_account("RequestedPresence")[0] == ONLINE
    refused = bob.run(public(binary("pneuma")), "accept", "alice", "x", "--detach", check=False)
    assert refused.returncode == 2 and "Mission Control" in refused.stderr, refused


@scenario
def pneuma_goes_on_when_mission_control_crashes():
    """Mission Control is killed and started again: the tube lives, and is still the command's."""
    alice, bob = pair()
    alice.request_presence("available")
    bob.request_presence("available")
    alice.connected()
    bob.connected()
    echo = alice.agent().call(echo_server, ["tcp", "127.0.0.1", 0])
    accepting = bob.pneuma("accept", bob.sees(alice)[0], "x-files")
    contact = waits_for(alice, bob, "x-files")
    offering = alice.pneuma("offer", "x-files", f"127.0.0.1:{echo[2]}", "--to", contact)
    place = address_of(accepting.event("accepted"))
    assert bob.agent().call(exchange, place, 1000) == 1000
    for person in (alice, bob):
        crash = person.call("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus",
                            "GetConnectionUnixProcessID", GLib.Variant("(s)", (TP + "AccountManager",)))
        os.kill(crash, signal.SIGKILL)
        until("Mission Control is gone", lambda: not person.has_owner(TP + "AccountManager"))
        assert person.account in person.mc_tool("list")
        person.connected()
    assert bob.agent().call(exchange, place, 1_000_000) == 1_000_000
    assert accepting.interrupt() == 0
    offering.event("closed")
    assert offering.ends() == 0


@scenario
def pneuma_says_why_mission_control_keeps_an_account_offline():
    """Without a default route Mission Control brings nothing online: the sentence says what to do."""
    lan = Lan("alice")
    run("ip", "-n", lan.alice.namespace, "route", "del", "default")
    alice = Managed("alice", machine=lan.alice, online=False)
    alice.heed_the_network()
    alice.create_account()
    late = alice.run(public(binary("pneuma")), "contacts", "--timeout", "3", check=False)
    assert late.returncode == 5 and "use-conn false" in late.stderr, late
    assert alice.of_account("RequestedPresence")[0] == OFFLINE
    # As it says.
    alice.heed_the_network(False)
    alice.run(public(binary("pneuma")), "contacts", "--detach")
    alice.connected()


def appeared(person, name):
    """When a name came to the bus last, among the signals."""
    return max(number for number, row in enumerate(person.signals)
               if row[2] == "NameOwnerChanged" and row[3][0] == name and row[3][2])


def handlers(person):
    names = person.call("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "ListNames")
    return [name for name in names if name.startswith(TP + "Client.Pneuma.")]
