"""People who have no business here, at every door: other machines, other users of the same machine."""
from home import *  # noqa: F403  (the tests' own vocabulary)

GARBAGE = [
    "",
    b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".hex(),
    "16030100050100000100",                                          # half a TLS greeting
    "050100" + "050100" + "03" + "28" + (b"0" * 40).hex() + "0000",  # SOCKS5 with a SID of his own
    "0502",
    bytes(range(256)).hex() * 40,
    b"<?xml version='1.0'?><stream:stream xmlns='jabber:client' version='1.0' from='a' to='b' "
    b"xmlns:stream='http://etherx.jabber.org/streams'><iq type='set' id='1'><x/></iq>".hex(),
]


@scenario
def a_stranger_at_every_port():
    """Another machine connects to every listening port with everything: no service, no harm."""
    home = Home()
    home.at_bob.call(hold_a_connection, home.door)
    before = home.echoed()
    mallory = home.mallory()
    tried = 0
    for machine in (home.lan.alice, home.lan.bob):
        for _, port in sorted(set(listening(machine))):
            for data in GARBAGE:
                state, got = mallory.call(knock, ["tcp", machine.address, port], data, 2)
                assert b"x-echo" not in bytes.fromhex(got), (machine.address, port, data)
                tried += state != "refused"
    assert tried, "no port was open to the network at all"
    assert home.echoed() == before
    assert home.at_bob.call(use_held_connection) == "still"
    home.works()


def other_user_everywhere(home):
    """Mallory as another user on Alice's and Bob's own machines, at every socket there is."""
    before = home.echoed()
    doors = 0
    for person in (home.alice, home.bob):
        intruder = home.mallory(machine=person.machine)
        for address, port in sorted(set(listening(person.machine))):
            if ["tcp", "127.0.0.1", port] == home.echo:
                continue
            host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address, address)
            for data in GARBAGE[:5] + [b"hello".hex()]:
                state, got = intruder.call(knock, ["tcp", host, port], data, 2)
                assert b"hello" not in bytes.fromhex(got), (person.name, host, port)
                doors += 1
        for path in unix_sockets(person):
            name = "\0" + path[1:] if path.startswith("@") else path
            state, got = intruder.call(knock, ["unix", name], b"hello".hex(), 20)
            assert got == "" and state in ("refused", "closed"), (path, state, got)
            doors += 1
        for path in (person.dir + "/run", person.dir + "/state"):
            assert intruder.call(may_read, path) == "PermissionError", path
    assert doors
    assert home.echoed() == before, "somebody else's connection reached the service"


def may_read(path):
    import os
    try:
        return os.listdir(path)
    except OSError as error:
        return type(error).__name__


@scenario
def another_user_at_every_socket_ipv4():
    """Another user of the machine at a tube's IPv4 port and at everything else."""
    home = Home(kind=IPV4)
    other_user_everywhere(home)
    home.works()


@scenario
def another_user_at_every_socket_ipv6():
    """Another user of the machine at a tube's IPv6 port and at everything else."""
    home = Home(kind=IPV6)
    other_user_everywhere(home)
    home.works()


@scenario
def another_user_at_every_socket_unix():
    """Another user of the machine at a tube's Unix socket and at everything else."""
    home = Home(kind=UNIX)
    other_user_everywhere(home)
    home.works()


@scenario
def another_user_at_every_socket_abstract():
    """Another user at a tube's abstract Unix socket, whose name everybody can read, and everything else."""
    home = Home(kind=ABSTRACT)
    assert home.door[1].startswith("\0"), home.door
    other_user_everywhere(home)
    home.works()


def another_user_says_the_byte(kind):
    home = Home(kind=kind, access=CREDENTIALS)
    other_user_everywhere(home)
    before = home.echoed()
    root = home.mallory(uid=0, machine=home.lan.bob)
    # Without credentials, with its own, and with what root alone can claim.
    tries = [(root, None), (root, 0), (root, BOB)]
    if kind == ABSTRACT:
        mallory = home.mallory(machine=home.lan.bob)
        tries += [(mallory, None), (mallory, MALLORY)]
    for intruder, uid in tries:
        got = intruder.call(say_byte_as, home.door, uid)
        assert got == "", (kind, uid, got)
    assert home.echoed() == before, "somebody else's connection reached the service"
    home.works()


@scenario
def another_user_says_the_byte_unix():
    """Another user, and root, say the byte of Credentials at a Unix socket."""
    another_user_says_the_byte(UNIX)


@scenario
def another_user_says_the_byte_abstract():
    """Another user, and root, say the byte of Credentials at an abstract Unix socket."""
    another_user_says_the_byte(ABSTRACT)


def say_byte_as(address, uid):
    """Connects and says a byte with these credentials attached, and more; what comes back."""
    import os
    import socket
    import struct
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(5)
    client.connect(address[1])
    attached = []
    if uid is not None:
        credentials = struct.pack("iII", os.getpid(), uid, os.getgid())
        attached = [(socket.SOL_SOCKET, socket.SCM_CREDENTIALS, credentials)]
    got = b""
    try:
        client.sendmsg([b"x"], attached)
        client.sendall(b"hello")
        while part := client.recv(65536):
            got += part
    except ConnectionError:
        pass
    client.close()
    return got.hex()


@scenario
def another_user_takes_the_services_name():
    """Alice's service on an abstract socket has ended, and another user listens under its name: with
    Credentials that one gets nothing, not even the byte."""
    home = Home(tube=False)
    name = "\0service-of-alice"
    tube = home.alice.create_tube(home.alice.handle_of("bob"), "x-name")
    home.bob.sees("alice")
    home.alice.offer(tube, ["unix", name], access=CREDENTIALS)
    door = home.bob.accept(home.bob.offered("x-name"), IPV4)
    mallory = home.mallory(machine=home.lan.alice)
    mallory.call(listen_and_note, name)
    state, got = home.at_bob.call(knock, door, b"hello".hex())
    assert state in ("closed", "refused") and got == "", (state, got)
    assert mallory.call(noted) == ["came", ""], "it was told something"
    # It would have noted what it was told.
    home.at_alice.call(knock, ["unix", name], b"x".hex())
    assert mallory.call(noted) == ["came", "", "came", "78"]


def listen_and_note(name):
    """Listens under a name, and notes in `kept` who came and what each said."""
    import socket
    import threading
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(name)
    listener.listen(8)
    kept["noted"] = []
    kept["ends"] = threading.Semaphore(0)

    def loop():
        while True:
            client, _ = listener.accept()
            kept["noted"].append("came")
            client.settimeout(10)
            try:
                said = client.recv(100)
            except OSError:
                said = b""
            client.close()
            kept["noted"].append(said.hex())
            kept["ends"].release()
    threading.Thread(target=loop, daemon=True).start()


def noted():
    assert kept["ends"].acquire(timeout=20), "nobody came"
    return kept["noted"]


@scenario
def another_user_on_the_named_port():
    """Another user connects from the very port that Port lets in."""
    home = Home(tube=False)
    for kind, own in ((IPV4, "127.0.0.1"), (IPV6, "::1")):
        service = f"x-port-{kind}"
        tube = home.alice.create_tube(home.alice.handle_of("bob"), service)
        home.bob.sees("alice")
        home.alice.offer(tube, home.echo)
        port = home.at_bob.call(free_tcp_port, own)
        door = home.bob.accept(home.bob.offered(service), kind, PORT, GLib.Variant("(sq)", (own, port)))
        before = home.echoed()
        mallory = home.mallory(machine=home.lan.bob)
        assert mallory.call(from_port, door, own, port) == ""
        assert home.echoed() == before, "somebody else's connection reached the service"
        assert home.at_bob.call(from_port, door, own, port) == "hello"


def free_tcp_port(address):
    import socket
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as probe:
        probe.bind((address, 0))
        return probe.getsockname()[1]


def from_port(address, own, port):
    """Says hello from a port of its own; what comes back."""
    import socket
    client = socket.socket(socket.AF_INET6 if ":" in own else socket.AF_INET)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    client.settimeout(10)
    got = b""
    try:
        client.bind((own, port))
        client.connect((address[1], address[2]))
        client.sendall(b"hello")
        client.shutdown(socket.SHUT_WR)
        while part := client.recv(65536):
            got += part
    except ConnectionError:
        pass
    client.close()
    return got.decode()


@scenario
def root_is_another_user_too():
    """Even root, who may open any socket, is not whom the tube is for."""
    home = Home(kind=UNIX)
    before = home.echoed()
    root = home.mallory(uid=0, machine=home.lan.bob)
    state, got = root.call(knock, home.door, b"hello".hex(), 20)
    assert state in ("closed", "refused") and got == "", (state, got)
    assert home.echoed() == before
    home.works()


@scenario
def writes_and_closes_before_we_look():
    """Another user connects, writes and is gone at once, a thousand times: nothing gets through."""
    home = Home(kind=IPV4)
    before = home.echoed()
    intruder = home.mallory(machine=home.lan.bob)
    made = intruder.call(write_and_vanish, home.door, 1000, patience=120)
    assert made == 1000
    settle(2)
    assert home.echoed() == before, "a connection of somebody who had gone reached the service"
    home.works()


def write_and_vanish(address, times):
    import socket
    import struct
    made = 0
    for number in range(times):
        made += 1
        try:
            client = socket.create_connection((address[1], address[2]), 10)
        except ConnectionResetError:
            # The door was faster than we: it has shown us out before `connect` returned.
            continue
        try:
            client.sendall(b"do as I say\n")
            if number % 2:
                # A reset instead of an end of file.
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        except OSError:
            pass
        client.close()
    return made


@scenario
def files_are_private():
    """Keys, trust and sockets lie where only their owner gets."""
    import os
    import stat
    home = Home(kind=UNIX)
    for person in (home.alice, home.bob):
        for top in ("run", "state"):
            for folder, folders, files in os.walk(os.path.join(person.dir, top)):
                for name in folders:
                    mode = stat.S_IMODE(os.stat(os.path.join(folder, name)).st_mode)
                    inside = os.path.relpath(os.path.join(folder, name), person.dir)
                    # What XDG asks for above our own folder is the system's matter.
                    assert mode & 0o077 == 0 or "pneuma" not in inside, (inside, oct(mode))
                for name in files:
                    path = os.path.join(folder, name)
                    mode = stat.S_IMODE(os.lstat(path).st_mode)
                    assert mode & 0o177 == 0, (path, oct(mode))
    home.works()


@scenario
def another_user_at_the_private_socket():
    """Another user and root at the socket for programs without a bus, and a greeting that never ends."""
    home = Home(kind=UNIX, arguments=["--serve", "both"])
    for person, own in ((home.alice, home.at_alice), (home.bob, home.at_bob)):
        socket = person.dir + "/run/pneuma/bus"
        for uid, states in ((MALLORY, ["refused"]), (0, ["closed"])):
            intruder = home.mallory(uid=uid, machine=person.machine)
            for data in GREETINGS:
                state, got = intruder.call(knock, ["unix", socket], data, 20)
                assert state in states and got == "", (uid, state, got)
        until("it is said", lambda: "somebody else's process at the private socket" in person.manager.output(),
              detail=person.seen)
        # As many of the user's own as there is room for, who say nothing or half a greeting.
        ended, longest = own.call(silent, socket, 70)
        assert ended == 70 and longest < 20, (ended, longest)
        state, got = own.call(knock, ["unix", socket], greeting(person.uid), 8)
        assert bytes.fromhex(got).startswith(b"OK "), (state, got)
    home.works()


def greeting(uid):
    return (b"\0AUTH EXTERNAL " + str(uid).encode().hex().encode() + b"\r\nBEGIN\r\n").hex()


GREETINGS = [greeting(uid) for uid in (ALICE, BOB, MALLORY, 0)] + ["", b"\0".hex(), b"\0AUTH ".hex()]


def silent(path, count):
    """Connects so often, says half a greeting or nothing, and waits for the end of all; gives how many
    were closed and how long the longest took."""
    import socket
    import time
    begun = time.monotonic()
    clients = []
    for number in range(count):
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(30)
        client.connect(path)
        try:
            client.sendall(b"\0AUTH EXTERNAL"[:number % 12])
        except OSError:
            pass  # there was no room for it
        clients.append(client)
    ended = 0
    for client in clients:
        try:
            ended += client.recv(1) == b""
        except ConnectionError:
            ended += 1
        client.close()
    return [ended, time.monotonic() - begun]
