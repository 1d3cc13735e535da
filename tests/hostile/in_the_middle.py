"""Somebody between Alice and Bob who can read, change, hold and swap what they send."""
from home import *  # noqa: F403  (the tests' own vocabulary)

BETWEEN = ("towards_alice", "towards_bob")


def with_mode(mode, both_ways=True, **options):
    """Alice and Bob go online with the man between them doing `mode` from the first packet."""
    home = Home(tube=False, neighbours=BETWEEN, online=False, **options)
    middle = home.middle(both_ways)
    middle.call(set_mode, mode)
    home.alice.go_online()
    home.bob.go_online()
    return home, middle


def again(home):
    """Both connection managers end and start anew, knowing what they wrote down."""
    for person in (home.alice, home.bob):
        person.manager.terminate()
    for person in (home.alice, home.bob):
        person.signals.clear()
        person.taken.clear()
        person.start_manager()
        person.go_online()


def never_in_plaintext(middle):
    for what, data in middle.call(seen_in_the_middle):
        for secret in ("<iq", "<message", "<tube", "x-echo"):
            assert secret not in data, (what, data[:500])


@scenario
def a_man_who_only_looks():
    """Everything that passes is encrypted: no stanza, no service name, no byte of the application."""
    home, middle = with_mode("pass", both_ways=False)
    home.make_tube()
    kinds = {what.split()[0] for what, _ in middle.call(seen_in_the_middle)}
    assert "socks" in kinds, kinds
    never_in_plaintext(middle)


def refused_offer(home, allowed):
    """Alice tries to offer Bob a tube and is refused with one of these errors (or sees him incapable)."""
    _, handle = home.alice.sees("bob", able=False)
    try:
        home.alice.offer(home.alice.create_tube(handle, "x-echo"), home.echo)
    except Error as error:
        assert error.short in allowed, error
    else:
        raise Failure("the offer went out\n" + home.alice.seen())


@scenario
def starttls_is_stripped():
    """Without STARTTLS nothing is said: EncryptionNotAvailable, and not a stanza in plaintext."""
    home, middle = with_mode("strip")
    refused_offer(home, ("EncryptionNotAvailable", "NotCapable"))
    never_in_plaintext(middle)
    home.honest()
    again(home)
    home.make_tube()


@scenario
def starttls_is_stripped_from_friends():
    """A pinned contact is never spoken to in plaintext, even where the account allows plaintext."""
    home = Home(neighbours=BETWEEN, parameters={"require-encryption": GLib.Variant("b", False)})
    middle = home.middle()
    middle.call(set_mode, "strip")
    again(home)
    refused_offer(home, ("EncryptionNotAvailable", "NotCapable"))
    never_in_plaintext(middle)
    home.honest()
    again(home)
    home.make_tube()


@scenario
def a_wrong_key():
    """The man in the middle answers with his own certificate: refused before a stanza is said."""
    home, middle = with_mode("own-key")
    refused_offer(home, ("FingerprintMismatch", "NotCapable"))
    shaken = until("a handshake was tried", lambda: middle.call(handshakes_in_the_middle))
    assert not [each for each in shaken if each.startswith("told")], shaken
    never_in_plaintext(middle)
    home.honest()
    again(home)
    home.make_tube()


@scenario
def a_sniffed_sid():
    """Who reads a SID and dials first gets nothing, and its owner still gets through."""
    home, middle = with_mode("pass", both_ways=False)
    home.make_tube()
    middle.call(set_mode, "sniff")
    before = home.echoed()
    home.works()
    stolen = middle.call(stolen_in_the_middle)
    assert stolen, "the man in the middle saw no SOCKS5 connection"
    for code, data in stolen:
        assert b"x-echo" not in bytes.fromhex(data)
    assert home.echoed() == before + 1
    middle.call(set_mode, "pass")
    home.works()


def swapped(home, middle):
    """Two of Bob's connections, crossed: the state and the bytes of each."""
    home.make_tube()
    assert home.bob.connection_closed(home.accepted) == "Cancelled"
    middle.call(set_mode, "swap")
    other = home.bob.agent()
    home.at_bob.start(knock, home.door, b"first secret".hex(), 20)
    other.start(knock, home.door, b"second secret".hex(), 20)
    results = [home.at_bob.answer(), other.answer()]
    assert [what for what, _ in middle.call(seen_in_the_middle) if what == "swapped"], "nothing was swapped"
    return results


@scenario
def targets_are_swapped():
    """Two bytestreams of the same pair, crossed on their way: neither carries a byte."""
    only = {"pneuma-bytestreams": GLib.Variant("s", "socks5")}
    home, middle = with_mode("pass", both_ways=False, parameters=only)
    results = swapped(home, middle)
    for state, data in results:
        assert state == "closed" and data == "", results
    closed = {home.bob.connection_closed(home.accepted) for _ in range(2)}
    assert closed <= {"ConnectionLost", "ConnectionRefused", "ConnectionFailed"}, closed
    middle.call(set_mode, "pass")
    home.works()


@scenario
def targets_are_swapped_in_vain():
    """The same where connections may go inside the XML stream: each does, and carries its own bytes."""
    home, middle = with_mode("pass", both_ways=False)
    results = swapped(home, middle)
    for (_, data), said in zip(results, (b"first secret", b"second secret")):
        assert bytes.fromhex(data) == said, results
    never_in_plaintext(middle)
    middle.call(set_mode, "pass")
    home.works()
