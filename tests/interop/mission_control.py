"""Mission Control manages the account: mc-tool makes it from our `.manager` file and brings it online."""
from home import *  # noqa: F403
from managed import Managed


@scenario
def mission_control_makes_an_account_and_brings_it_online():
    """mc-tool adds, enables, updates and removes an account; nothing was started by hand."""
    alice = Managed("alice", online=False)
    assert not alice.has_owner(CM_NAME)
    account = alice.create_account()
    assert account.startswith("pneuma/local_xmpp/"), account
    shown = alice.mc_tool("show", account)
    assert "Icon: im-local-xmpp" in shown and "(string) published-name = alice" in shown, shown
    assert f"(uint) pneuma-mdns-port = {alice.port}" in shown, shown
    alice.request_presence("available")
    alice.connected()
    presence = lambda *wanted: until(f"the presence is {wanted}", lambda: alice.of_account(
        "CurrentPresence")[:2] == wanted, detail=alice.seen)
    presence(2, "available")
    assert alice.of_account("NormalizedName").startswith("alice@"), alice.of_account("NormalizedName")
    alice.request_presence("dnd")
    presence(6, "dnd")
    bob = Person("bob", port=alice.port)
    assert alice.sees(bob)
    contact, handle = bob.sees(alice)
    until("bob sees that alice is busy", lambda: bob.contacts()[contact][1] == 6, detail=bob.seen)
    # A parameter that is no longer what it was takes effect with the next connection.
    assert "published-name" in alice.mc_tool("update", account, "string:published-name=alicia")
    alice.mc_tool("reconnect", account)
    until("alice is alicia", lambda: alice.of_account("NormalizedName").startswith("alicia@")
          and alice.of_account("ConnectionStatus") == 0, detail=alice.seen)
    assert bob.sees("alicia")
    alice.request_presence("offline")
    alice.disconnected()
    until("there is no connection", lambda: not [
        name for name in alice.call("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus",
                                    "ListNames") if name.startswith(CONNECTION + ".pneuma")])
    alice.mc_tool("remove", account)
    # It ends with 1 when there is nothing to list.
    assert alice.run("mc-tool", "list", check=False).stdout == ""


@scenario
def mission_control_brings_an_account_online_that_fell_off_the_bus():
    """The connection manager is killed: Mission Control has it started again and the account is back."""
    alice = Managed("alice")
    before = alice.call("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus",
                        "GetConnectionUnixProcessID", GLib.Variant("(s)", (CM_NAME,)))
    path = alice.path
    os.kill(before, signal.SIGKILL)
    alice.take("Mission Control noticed", lambda path, interface, member, arguments:
               member == "AccountPropertyChanged" and arguments[0].get("ConnectionStatus") == 2)
    alice.connected()
    after = alice.call("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus",
                       "GetConnectionUnixProcessID", GLib.Variant("(s)", (CM_NAME,)))
    assert after != before and alice.path == path, (before, after, path, alice.path)
    bob = Person("bob", port=alice.port)
    assert alice.sees(bob) and bob.sees(alice)
