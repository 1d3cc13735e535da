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
            state, got = intruder.call(knock, ["unix", name], b"hello".hex(), 2)
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
def root_is_another_user_too():
    """Even root, who may open any socket, is not whom the tube is for."""
    home = Home(kind=UNIX)
    before = home.echoed()
    root = home.mallory(uid=0, machine=home.lan.bob)
    state, got = root.call(knock, home.door, b"hello".hex(), 2)
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
                state, got = intruder.call(knock, ["unix", socket], data, 2)
                assert state in states and got == "", (uid, state, got)
        assert "somebody else's process at the private socket" in person.manager.output()
        # As many of the user's own as there is room for, who say nothing or half a greeting.
        ended, longest = own.call(silent, socket, 70)
        assert ended == 70 and longest < 20, (ended, longest)
        state, got = own.call(knock, ["unix", socket], greeting(person.uid), 2)
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
