"""D-Bus tubes: the libraries that people speak D-Bus with, and telepathy-glib's TpDBusTubeChannel
(glib_dbus.py)."""
from home import *  # noqa: F403  (the tests' own vocabulary)
from telepathy_glib import Side, do

SERVICE = "com.example.Chess"


# In the agents.

def serve(address):
    """An application by GDBus: a board that gives back, reversed, what is played on it."""
    import threading
    from gi.repository import Gio, GLib
    node = Gio.DBusNodeInfo.new_for_xml(
        '<node><interface name="com.example.Chess.Board"><method name="Play"><arg type="s" direction="in"/>'
        '<arg type="s" direction="out"/></method></interface></node>')

    def play(_bus, _sender, _path, _interface, _method, arguments, invocation):
        invocation.return_value(GLib.Variant("(s)", (arguments.unpack()[0][::-1],)))
    tube = Gio.DBusConnection.new_for_address_sync(
        address, Gio.DBusConnectionFlags.AUTHENTICATION_CLIENT, None, None)
    tube.set_exit_on_close(False)
    tube.register_object("/com/example/Chess/Board", node.interfaces[0], play, None, None)
    kept["tube"] = tube
    threading.Thread(target=GLib.MainLoop().run, daemon=True).start()


def by_gdbus(address, texts):
    from gi.repository import Gio, GLib
    tube = Gio.DBusConnection.new_for_address_sync(
        address, Gio.DBusConnectionFlags.AUTHENTICATION_CLIENT, None, None)
    assert not tube.get_capabilities() & Gio.DBusCapabilityFlags.UNIX_FD_PASSING
    answers = [tube.call_sync(None, "/com/example/Chess/Board", "com.example.Chess.Board", "Play",
                              GLib.Variant("(s)", (text,)), None, Gio.DBusCallFlags.NONE, 30000, None).unpack()[0]
               for text in texts]
    tube.close_sync(None)
    return answers


def by_libdbus(address, texts):
    import ctypes
    from ctypes import byref, c_char_p, c_int, c_void_p
    lib = ctypes.CDLL("libdbus-1.so.3")
    for name in ("dbus_connection_open_private", "dbus_message_new_method_call",
                 "dbus_connection_send_with_reply_and_block"):
        getattr(lib, name).restype = c_void_p
    error = ctypes.create_string_buffer(64)
    lib.dbus_error_init(error)
    tube = lib.dbus_connection_open_private(address.encode(), error)
    assert tube, "libdbus does not connect"
    lib.dbus_connection_set_exit_on_disconnect(c_void_p(tube), 0)
    answers = []
    for text in texts:
        call = lib.dbus_message_new_method_call(
            None, b"/com/example/Chess/Board", b"com.example.Chess.Board", b"Play")
        said, string, end = c_char_p(text.encode()), c_int(ord("s")), c_int(0)
        assert lib.dbus_message_append_args(c_void_p(call), string, byref(said), end)
        answer = lib.dbus_connection_send_with_reply_and_block(c_void_p(tube), c_void_p(call), 30000, error)
        lib.dbus_message_unref(c_void_p(call))
        assert answer, "libdbus has no answer"
        came = c_char_p()
        assert lib.dbus_message_get_args(c_void_p(answer), error, string, byref(came), end)
        answers.append(came.value.decode())
        lib.dbus_message_unref(c_void_p(answer))
    # That it passes descriptors was not agreed on.
    assert not lib.dbus_connection_can_send_type(c_void_p(tube), ord("h"))
    lib.dbus_connection_close(c_void_p(tube))
    lib.dbus_connection_unref(c_void_p(tube))
    return answers


def by_sd_bus(address, texts):
    import ctypes
    from ctypes import byref, c_char_p, c_void_p
    lib = ctypes.CDLL("libsystemd.so.0")

    def well(code, what):
        assert code >= 0, f"sd-bus: {what}: {code}"
    tube = c_void_p()
    well(lib.sd_bus_new(byref(tube)), "new")
    well(lib.sd_bus_set_address(tube, address.encode()), "set_address")
    well(lib.sd_bus_start(tube), "start")
    answers = []
    for text in texts:
        answer, came = c_void_p(), c_char_p()
        well(lib.sd_bus_call_method(tube, None, b"/com/example/Chess/Board", b"com.example.Chess.Board", b"Play",
                                    None, byref(answer), b"s", c_char_p(text.encode())), "call")
        well(lib.sd_bus_message_read(answer, b"s", byref(came)), "read")
        answers.append(came.value.decode())
        lib.sd_bus_message_unref(answer)
    lib.sd_bus_can_send.restype = ctypes.c_int
    assert lib.sd_bus_can_send(tube, ctypes.c_char(b"h")) == 0
    lib.sd_bus_flush_close_unref(tube)
    return answers


def authenticate(address, lines):
    """What the tube's socket answers to these lines, one at a time; an empty text for its end."""
    import socket
    path = address.removeprefix("unix:path=").split(",")[0]
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(20)
    try:
        client.connect(path)
        client.sendall(b"\0")
        got = []
        for line in lines:
            client.sendall(line.encode() + b"\r\n")
            answer = b""
            while not answer.endswith(b"\r\n") and (part := client.recv(4096)):
                answer += part
            got.append(answer.decode().strip())
        return got
    except (BrokenPipeError, ConnectionResetError):
        return [""]
    finally:
        client.close()


def load(folder):
    import sys
    sys.path.insert(0, folder)
    import glib_dbus
    kept["client"] = glib_dbus.DBusClient()


# Here.

def made(alice, bob, access=CREDENTIALS):
    """An open tube; both addresses."""
    ours = alice.create_tube(alice.handle_of("bob"), SERVICE, DBUS_TUBE)
    here = alice.offer_dbus(ours, access)
    theirs = bob.offered(SERVICE)
    there = bob.accept_dbus(theirs, access)
    alice.opens(ours)
    bob.opens(theirs)
    return here, there


@scenario
def every_library_speaks_through_a_dbus_tube():
    """GDBus, libdbus and sd-bus, one after the other, at either end: each asks a board by GDBus."""
    port = free_port()
    alice, bob = Person("alice", port=port), Person("bob", port=port)
    here, there = made(alice, bob)
    texts = ["e4", "", "ö" * 100, "x" * 300_000]
    expected = [text[::-1] for text in texts]
    for server, client, (at, to) in ((alice, bob, (here, there)), (bob, alice, (there, here))):
        board = server.agent()
        board.call(serve, at)
        for library in (by_gdbus, by_libdbus, by_sd_bus):
            assert client.agent().call(library, to, texts) == expected, library
        board.close()
        server.agents.remove(board)


@scenario
def a_dbus_tube_knows_whose_process_it_is():
    """Credentials: whoever is another user is not let in, and nobody may say to be one."""
    port = free_port()
    alice, bob = Person("alice", uid=ALICE, port=port), Person("bob", uid=BOB, port=port)
    _here, there = made(alice, bob)
    claim = lambda uid: "AUTH EXTERNAL " + str(uid).encode().hex()
    own = bob.agent().call(authenticate, there, ["AUTH", claim(ALICE), claim(BOB), "NEGOTIATE_UNIX_FD"])
    assert own[0].startswith("REJECTED EXTERNAL") and "ANONYMOUS" not in own[0], own
    assert own[1].startswith("REJECTED") and own[2].startswith("OK ") and own[3].startswith("ERROR"), own
    # Root gets past every file's permission, and is another user.
    root = bob.agent(uid=0)
    for said in (claim(0), claim(BOB), "AUTH ANONYMOUS"):
        got = root.call(authenticate, there, [said])
        assert not got[0].startswith("OK"), (said, got)
    # Nobody has used the place meanwhile.
    assert bob.agent().call(authenticate, there, [claim(BOB)])[0].startswith("OK ")


@scenario
def a_dbus_tube_with_localhost_asks_for_no_name():
    """Localhost: whoever gets to the socket need not say who it is; who says it must say the truth."""
    port = free_port()
    alice, bob = Person("alice", port=port), Person("bob", port=port)
    _here, there = made(alice, bob, LOCALHOST)
    got = bob.agent().call(authenticate, there, ["AUTH EXTERNAL 39393939", "AUTH ANONYMOUS"])
    assert got[0].startswith("REJECTED") and "ANONYMOUS" in got[0] and got[1].startswith("OK "), got


def pair():
    port = free_port()
    alice, bob = Side("alice", port, load), Side("bob", port, load)
    alice.id = alice.connect("alice", port)
    bob.id = bob.connect("bob", port)
    bob.announce_dbus(SERVICE)
    assert alice.takes_dbus(bob.id, SERVICE)
    alice.create_dbus(bob.id, SERVICE)
    return alice, bob


def opened(alice, bob):
    # offer_async waits for the other side: both main loops must run.
    alice.agent.start(do, "offer_dbus")
    bob.accept_dbus(SERVICE)
    alice.agent.answer()


@scenario
def telepathy_glib_speaks_through_a_dbus_tube():
    """TpDBusTubeChannel on both sides: capabilities, offer, accept, calls and signals both ways, close."""
    alice, bob = pair()
    opened(alice, bob)
    for asks, answers in ((alice, bob), (bob, alice)):
        # Whoever answers needs its main loop for that.
        answers.agent.start(do, "moved", 100)
        assert asks.play("checkmate") == "etamkcehc"
        moves = [f"move {number}" for number in range(100)]
        asks.move(moves)
        assert answers.agent.answer() == moves
    assert bob.close()
    assert alice.invalidated()
    assert alice.hung_up()


def fails(side):
    """What was offered did not open: telepathy-glib says so to its caller, and the channel is gone."""
    try:
        side.agent.answer()
    except Failure:
        pass
    else:
        raise Failure("it was open")
    return side.invalidated()


@scenario
def telepathy_glib_hears_that_a_dbus_tube_is_declined():
    """The contact closes what it is offered; and is offered it again."""
    alice, bob = pair()
    for _ in range(2):
        alice.agent.start(do, "offer_dbus")
        assert bob.decline_dbus(SERVICE)
        assert fails(alice) == "Channel was closed"
        alice.create_dbus(bob.id, SERVICE)


@scenario
def telepathy_glib_takes_back_a_dbus_tube():
    """Who offers it closes it before the contact has answered: it is gone there, and cannot be accepted."""
    alice, bob = pair()
    alice.begin_offer_dbus()
    bob.look_at_dbus(SERVICE)
    bob.agent.start(do, "accept_what_is_gone")
    assert alice.take_back_dbus() == "Channel was closed"
    assert bob.agent.answer() == "Channel was closed"
    # The next one is another.
    alice.create_dbus(bob.id, SERVICE)
    opened(alice, bob)


@scenario
def telepathy_glib_closes_a_dbus_tube_at_the_offering_side():
    """The accepting side's channel goes with it, and both connections."""
    alice, bob = pair()
    opened(alice, bob)
    assert alice.close()
    assert bob.invalidated() == "Channel was closed"
    assert bob.hung_up() and alice.hung_up()


@scenario
def telepathy_glib_loses_a_dbus_tube_to_a_service_that_is_killed():
    """A connection manager is killed with -9: at the other side the channel is closed, on its own bus
    telepathy-glib hears that the service is gone; no call is left hanging."""
    for dies in ("alice", "bob"):
        sides = dict(zip(("alice", "bob"), pair()))
        opened(sides["alice"], sides["bob"])
        left = sides.pop(dies)
        other, = sides.values()
        # A call that nobody answers, on either side of the break.
        for side in (left, other):
            side.agent.start(do, "play_to_nobody")
        left.person.manager.kill()
        for side in (left, other):
            assert side.agent.answer() in ("Closed", "NoReply"), side
            assert side.hung_up()
        assert other.invalidated() == "Channel was closed"
        assert left.invalidated() and left.connection_invalidated()
        for side in (left, other):
            side.person.close()
