"""Too much of everything: bad XML, handshakes that stall, ten thousand connections and offers."""
from home import *  # noqa: F403  (the tests' own vocabulary)

OPENING = (b"<?xml version='1.0'?><stream:stream xmlns='jabber:client' from='mallory@x' to='alice@x' "
           b"version='1.0' xmlns:stream='http://etherx.jabber.org/streams'>")
MIB = 1024 * 1024
# Ten threads and a few streams more or less are the machine's mood; a leak is larger.
SLACK = 12


def xml_port(home):
    """Where Alice's connection manager listens for XML streams: the port that answers one."""
    mallory = home.mallory()
    for _, port in sorted(set(listening(home.lan.alice))):
        _, answer = mallory.call(knock, ["tcp", home.lan.alice.address, port], OPENING.hex(), 6)
        if bytes.fromhex(answer).lstrip().startswith(b"<"):
            return port
    raise Failure("no port of Alice's answers an XML stream")


def settled(person, before, what=""):
    """Waits until descriptors and threads are back at what they were."""
    def back():
        now = person.manager.usage()
        return now[0] <= before[0] + SLACK and now[1] <= before[1] + SLACK
    until(f"{person.name} holds no more than before {what} {before}", back, 90,
          lambda: f"{before} -> {person.manager.usage()}\n{person.seen()}")


@scenario
def bad_xml():
    """Malformed, nested, endless, not UTF-8, entities, too long: each is ended, none costs anything."""
    home = Home()
    port = xml_port(home)
    address = ["tcp", home.lan.alice.address, port]
    before = home.alice.manager.usage()
    mallory = home.mallory()
    for what, start, repeated, times in [
            ("malformed", OPENING + b"<iq></message>", b"", 0),
            ("no XML", b"hello there\r\n\r\n", b"", 0),
            ("nested", OPENING, b"<a>", 200_000),
            ("an endless attribute", OPENING + b"<iq id='", b"x" * 1000, 20_000),
            ("endless text", OPENING + b"<iq id='1'>", b"x" * 1000, 20_000),
            ("an endless name", OPENING + b"<", b"x" * 1000, 20_000),
            ("endless attributes", OPENING + b"<iq ", b"aaaaaaaaaa='b' ", 200_000),
            ("endless white space", OPENING, b" " * 1000, 20_000),
            ("endless children", OPENING + b"<iq id='1'>", b"<a/>", 500_000),
            ("not UTF-8", OPENING + b"<iq id='\xff\xfe\xc3'/>", b"", 0),
            ("a NUL", OPENING + b"<iq id='\0'/>", b"", 0),
            ("UTF-16", OPENING.decode().encode("utf-16"), b"", 0),
            ("entities", b"<?xml version='1.0'?><!DOCTYPE a [<!ENTITY a 'aaaaaaaaaa'>"
             b"<!ENTITY b '&a;&a;&a;&a;&a;&a;'>]><stream:stream>&b;", b"", 0),
            ("a processing instruction", OPENING + b"<?php evil ?>", b"", 0),
            ("the wrong root", b"<html xmlns='jabber:client'>", b"", 0),
            ("a namespace nobody declared", b"<stream:stream>", b"", 0)]:
        ended = mallory.call(pour, address, start.hex(), repeated.hex(), times, 60, patience=90)
        assert ended in ("closed", "reset"), (what, ended)
    after = home.alice.manager.usage()
    assert (after[2] - before[2]) * 1024 < 48 * MIB, (before, after)
    home.works()
    settled(home.alice, before, "bad XML")


def pour(address, start, repeated, times, wait):
    """Sends until the other side has had enough; tells how it ended."""
    import socket
    import threading
    client = socket.create_connection((address[1], address[2]), 10)
    client.settimeout(wait)

    def read():
        try:
            while client.recv(65536):
                pass
            kept["ended"] = "closed"
        except socket.timeout:
            kept["ended"] = "open"
        except OSError:
            kept["ended"] = "reset"
    reader = threading.Thread(target=read)
    reader.start()
    block = bytes.fromhex(repeated) * 64
    try:
        client.sendall(bytes.fromhex(start))
        for _ in range(times // 64):
            client.sendall(block)
    except OSError:
        pass
    reader.join(wait + 5)
    client.close()
    return kept["ended"]


@scenario
def handshakes_that_stall():
    """Many who connect and stop half way: they are ended in time, and others get through meanwhile."""
    home = Home()
    port = xml_port(home)
    before = home.alice.manager.usage()
    mallory = home.mallory()
    ports = sorted({each for _, each in listening(home.lan.alice)})
    held = mallory.call(stall, home.lan.alice.address, ports, 40,
                        ["", "3c", OPENING.hex(), "0501", "050100",
                         (OPENING + b"<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>").hex()])
    assert held > 0
    home.works()
    assert port in ports
    ended = mallory.call(wait_for_the_end, 120, patience=150)
    assert ended == 0, f"{ended} stalled connections were never ended"
    settled(home.alice, before, "stalled handshakes")
    home.works()


def stall(host, ports, times, starts):
    import socket
    kept["stalled"] = []
    for port in ports:
        for number in range(times):
            try:
                client = socket.create_connection((host, port), 5)
                client.sendall(bytes.fromhex(starts[number % len(starts)]))
                kept["stalled"].append(client)
            except OSError:
                pass
    return len(kept["stalled"])


def wait_for_the_end(seconds):
    """How many of the stalled connections are still open after that time."""
    import select
    import time
    deadline = time.monotonic() + seconds
    left = kept["stalled"]
    while left and time.monotonic() < deadline:
        readable, _, _ = select.select(left, [], [], 1)
        for client in readable:
            try:
                if client.recv(65536):
                    continue
            except OSError:
                pass
            client.close()
            left.remove(client)
    return len(left)


@scenario
def ten_thousand_connects():
    """One peer connects ten thousand times, five hundred at once: bounded, and then as before."""
    home = Home()
    before = [person.manager.usage() for person in (home.alice, home.bob)]
    mallory = home.mallory()
    ports = sorted({port for _, port in listening(home.lan.alice)})
    mallory.call(connect_often, home.lan.alice.address, ports, 10_000, 500, patience=180)
    during = home.alice.manager.usage()
    assert (during[2] - before[0][2]) * 1024 < 64 * MIB, (before, during)
    home.works()
    mallory.close()
    settled(home.alice, before[0], "ten thousand connects")
    settled(home.bob, before[1], "ten thousand connects")
    home.works()


def connect_often(host, ports, times, at_once):
    import collections
    import socket
    held = collections.deque()
    for number in range(times):
        try:
            held.append(socket.create_connection((host, ports[number % len(ports)]), 5))
        except OSError:
            pass
        if len(held) > at_once:
            held.popleft().close()
    kept["held"] = held


@scenario
def ten_thousand_offers():
    """One authenticated peer offers ten thousand tubes: a bounded number of channels, and an end."""
    home = Home()
    mallory = Person("mallory", home.lan.mallory, MALLORY, home.port)
    handle = mallory.handle_of("bob")
    before = home.bob.manager.usage()
    objects = len(home.bob.objects())
    made, refused = [], set()
    for number in range(10_000):
        try:
            tube = mallory.create_tube(handle, f"x-flood-{number}")
            made.append(tube)
            mallory.offer(tube, ["tcp", "127.0.0.1", 9])
        except Error as error:
            refused.add(error.short)
            # What Bob did not take is taken back, so that only Bob's bounds are met.
            for tube in made:
                try:
                    mallory.close_channel(tube)
                except Error:
                    pass  # Bob has closed it
            made.clear()
    during = home.bob.manager.usage()
    assert (during[2] - before[2]) * 1024 < 96 * MIB, (before, during)
    assert len(home.bob.objects()) - objects <= 20
    home.works()
    mallory.close()
    until("the flood's channels are gone", lambda: len(home.bob.objects()) <= objects + 2, 180, home.bob.seen)
    settled(home.bob, before, "ten thousand offers")
    home.works()
