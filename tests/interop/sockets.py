"""telepathy-glib with the access controls that it prefers where they are listed: Credentials on Unix
sockets, Port on IP. On the offering side it takes a connection for one of the tube's only when it has
matched it with NewRemoteConnection by its byte or its port."""
from home import *  # noqa: F403  (the tests' own vocabulary)
from telepathy_glib import do, pair

# The signature of NewRemoteConnection's parameter.
PARAMETER = {UNIX: "y", IPV4: "(sq)", IPV6: "(sq)"}


def made(alice, bob, offered, accepted):
    """A tube from Alice to Bob, each with this kind of socket, and one connection through it."""
    alice.show_only([offered])
    bob.show_only([accepted])
    alice.sees(bob.id, "x-echo")
    alice.offer(bob.id, "x-echo")
    bob.agent.start(do, "accept", "x-echo")
    came = alice.served(1)
    bob.agent.answer()
    assert came == [bob.id], came
    text = f"from {accepted} to {offered}. " * 5000
    assert bob.exchange(text) == text
    parameters = alice.connection_parameters(1)
    assert [signature for signature, _ in parameters] == [PARAMETER[offered]], parameters
    door = bob.door()
    assert (UNIX if door[0] == "unix" else IPV6 if ":" in door[1] else IPV4) == accepted, door
    return door


def greet(address, byte, text):
    """What comes back for a text on a connection of its own, after this first byte (if it is one)."""
    import socket
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(20)
    client.connect(address[1])
    client.sendall(bytes([byte]) + text.encode())
    client.shutdown(socket.SHUT_WR)
    got = b""
    while part := client.recv(65536):
        got += part
    client.close()
    return got.decode()


@scenario
def telepathy_glib_uses_credentials_on_both_sides():
    """Unix sockets: each side says its byte, and none of them gets into the stream."""
    alice, bob = pair("x-echo")
    door = made(alice, bob, UNIX, UNIX)
    # The socket that telepathy-glib uses takes a byte from everybody, and that only.
    here = bob.person.agent()
    here.start(greet, door, 7, "after the byte")
    alice.served(2)
    assert here.answer() == "after the byte"
    bytes_said = [byte for _, byte in alice.connection_parameters(2)]
    assert len(set(bytes_said)) == 2, bytes_said


@scenario
def telepathy_glib_uses_ports_over_ipv4():
    """IPv4 only: telepathy-glib names its port to Accept, and knows us by ours."""
    ports(IPV4)


@scenario
def telepathy_glib_uses_ports_over_ipv6():
    """The same over IPv6."""
    ports(IPV6)


def ports(kind):
    alice, bob = pair("x-echo")
    door = made(alice, bob, kind, kind)
    # The port it named is its own: nobody else comes in, not even of the same user.
    state, got = bob.person.agent().call(knock, door, b"hello".hex())
    assert state in ("closed", "refused") and got == "", (state, got)
    assert alice.served(1) == [bob.id]
    assert bob.exchange("still") == "still"


@scenario
def telepathy_glib_mixes_credentials_and_ports():
    """Credentials on one side, Port on the other, both ways round, one tube after the other."""
    alice, bob = pair("x-echo")
    made(alice, bob, UNIX, IPV6)
    bob.close()
    alice.invalidated()
    there, back = pair("x-echo")
    made(there, back, IPV4, UNIX)


@scenario
def telepathy_glib_tells_many_connections_apart():
    """Twenty connections at once to a service of telepathy-glib's that knows them by their bytes."""
    alice, bob = pair("x-echo")
    door = made(alice, bob, UNIX, UNIX)
    agents = [bob.person.agent() for _ in range(4)]
    for number, agent in enumerate(agents):
        agent.start(greet_many, door, 5, number)
    assert alice.served(21) == [bob.id] * 21
    for agent in agents:
        assert agent.answer() == 5
    said = [byte for _, byte in alice.connection_parameters(21)]
    assert len(set(said)) == 21, said


def greet_many(address, count, number):
    """So many connections at the same time, each with a text of its own; how many got it back."""
    import socket
    clients = []
    for at in range(count):
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(20)
        client.connect(address[1])
        clients.append((client, f"{number}-{at} ".encode() * 1000))
    for client, text in clients:
        client.sendall(b"b" + text)
        client.shutdown(socket.SHUT_WR)
    right = 0
    for client, text in clients:
        got = b""
        while part := client.recv(65536):
            got += part
        client.close()
        right += got == text
    return right
