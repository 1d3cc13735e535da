"""Lies about who is on the network."""
from home import *  # noqa: F403  (the tests' own vocabulary)


def own_key(person):
    return person.property(person.path, TRUST, "OwnFingerprint")


def trust(person, handle):
    return person.on(person.path, TRUST, "GetTrust", GLib.Variant("(u)", (handle,)))


def by_key(person, key):
    """{id: handle} of the contacts that prove or announce a key."""
    return {contact: handle for contact, (handle, _, _) in person.contacts().items()
            if trust(person, handle).get("fingerprint") == key}


@scenario
def a_forged_goodbye():
    """A goodbye that anybody can send closes no tube and no connection."""
    home = Home()
    home.at_bob.call(hold_a_connection, home.door)
    mallory = home.mallory()
    for instance in (home.alice.sees("bob")[0], home.bob.sees("alice")[0]):
        mallory.call(multicast, "goodbye", [instance], home.lan.mallory.address, home.port, 4)
    settle(3)
    assert home.at_bob.call(use_held_connection) == "still"
    home.works()
    for person, channel in ((home.alice, home.tube), (home.bob, home.accepted)):
        assert person.property(channel, TUBE, "State") == 2
    assert not [row for row in home.alice.signals + home.bob.signals if row[2] == "Closed"]


@scenario
def a_forced_rename():
    """Somebody claims Alice's name so that she must take another: Bob still knows her by her key."""
    home = Home()
    key = own_key(home.alice)
    before = home.bob.sees("alice")
    mallory = home.mallory()
    mallory.call(multicast, "claim", [before[0], "mallory", home.lan.mallory.address, 9],
                 home.lan.mallory.address, home.port, 8)
    settle(3)
    home.works()
    # Whatever she is called on the wire now, the contact that is pinned is hers.
    until("Bob's contact with Alice's key keeps its name",
          lambda: before[0] in by_key(home.bob, key), detail=home.bob.seen)
    again = home.alice.create_tube(home.alice.handle_of("bob"), "x-again")
    home.alice.offer(again, home.echo)
    home.bob.offered("x-again")
    home.works()


@scenario
def a_stranger_under_a_pinned_name():
    """Bob leaves, somebody else comes under his name: a second, blocked contact; nothing is sent."""
    home = Home()
    pinned, handle = home.alice.sees("bob")
    key = own_key(home.bob)
    home.bob.manager.terminate()
    impostor = Person("bob", home.lan.mallory, MALLORY, home.port)
    theirs = own_key(impostor)
    assert theirs != key

    def blocked():
        return {contact: each for contact, each in by_key(home.alice, theirs).items() if contact != pinned}
    second = until("Alice sees the impostor as a second contact", blocked, detail=home.alice.seen)
    for each in second.values():
        seen = trust(home.alice, each)
        assert seen["trust"] == "blocked" and seen["pinned-fingerprint"] == key, seen
        try:
            home.alice.offer(home.alice.create_tube(each, "x-echo"), home.echo)
        except Error as error:
            assert error.short == "FingerprintMismatch", error
            # Both fingerprints, so that a person can judge.
            assert key in error.message and theirs in error.message, error
        else:
            raise Failure("Alice could offer a tube to the impostor")
    # Towards the pinned contact, which is away, nothing goes either.
    try:
        home.alice.offer(home.alice.create_tube(handle, "x-other"), home.echo)
    except Error:
        pass
    settle(2)
    assert not [row for row in impostor.signals if row[2] == "NewChannels"], impostor.seen()
    impostor.close()
    home.bob.start_manager()
    home.bob.signals.clear()
    home.bob.taken.clear()
    home.bob.go_online()
    until("the real Bob is back under his name",
          lambda: pinned in by_key(home.alice, key) and home.alice.contacts()[pinned][1] > 1,
          detail=home.alice.seen)
    home.make_tube()


@scenario
def the_first_claim_of_a_name():
    """A stranger is there first under Bob's name: the real Bob is another contact with another code."""
    home = Home(tube=False, online=False)
    home.alice.go_online()
    impostor = Person("bob", home.lan.mallory, MALLORY, home.port)
    home.alice.sees("bob")
    home.bob.go_online()
    keys = [own_key(impostor), own_key(home.bob)]
    found = [until("Alice sees both", lambda: by_key(home.alice, key), detail=home.alice.seen) for key in keys]
    assert set(found[0]) & set(found[1]) == set(), found
    codes = []
    for contacts in found:
        handle = next(iter(contacts.values()))
        codes.append(str(home.alice.on(home.alice.path, TRUST, "GetComparisonCode",
                                       GLib.Variant("(u)", (handle,)))))
    assert codes[0] != codes[1] and all(codes), codes
    # A tube to the one that is really Bob's goes to him and to nobody else. (While his name was in
    # dispute he was seen under another one too, which is gone by now.)
    def able():
        contacts = home.alice.contacts()
        return [handle for contact, handle in by_key(home.alice, keys[1]).items()
                if contacts[contact][1] > 1 and contacts[contact][2] is not None]
    until("Bob has one name and takes tubes", lambda: len(able()) == 1, detail=home.alice.seen)
    handle = able()[0]
    home.tube = home.alice.create_tube(handle, "x-echo")
    home.alice.offer(home.tube, home.echo)
    home.accepted = home.bob.offered("x-echo")
    home.door = home.bob.accept(home.accepted, IPV4)
    home.works()
    assert not [row for row in impostor.signals if row[2] == "NewChannels"], impostor.seen()


@scenario
def a_flood_of_names():
    """Thousands of people who are not there: memory stays bounded, the pinned contact stays."""
    home = Home()
    before = home.alice.manager.usage()
    mallory = home.mallory()
    mallory.call(flood_names, home.lan.mallory.address, home.port, 5000, patience=120)
    settle(2)
    assert home.alice.sees("bob")
    home.works()
    after = home.alice.manager.usage()
    assert after[2] - before[2] < 64 * 1024, (before, after)
    assert after[0] - before[0] < 32, (before, after)


def flood_names(address, port, count):
    import mdns
    packets = [mdns.claim(f"ghost{number}@nowhere", f"ghost{number}", address, 9, nick=f"Ghost {number}")
               for number in range(count)]
    for start in range(0, count, 200):
        mdns.send(packets[start:start + 200], address, port)
