//! Every way to have a socket on each side, against every other.

use std::{collections::HashMap, io::Read as _};

use support::{Access, Address, Caller, Echo, Person, PortForm, exchange_on, name, say_byte};
use zbus::{OwnedVariant, Variant};

use crate::alice_and_bob;

/// `Socket_Address_Type` and `Socket_Access_Control`: what there is, and nothing else.
const WAYS: [(u32, Access); 8] = [
    (0, Access::Localhost),
    (0, Access::Credentials),
    (1, Access::Localhost),
    (1, Access::Credentials),
    (2, Access::Localhost),
    (2, Access::Port),
    (3, Access::Localhost),
    (3, Access::Port),
];

const PORT_FORMS: [PortForm; 3] = [PortForm::Exact, PortForm::AnyAddress, PortForm::Bare];

/// A tube that is offered one way and accepted another.
struct Pair<'p> {
    alice: &'p Person,
    bob: &'p Person,
    service: Echo,
    ours: String,
    theirs: String,
    door: Address,
}

impl<'p> Pair<'p> {
    fn new(
        (alice, bob): (&'p Person, &'p Person),
        offered: (u32, Access),
        accepted: (u32, Access),
        form: PortForm,
    ) -> (Self, Caller) {
        let service = Echo::with(offered.0, offered.1, alice.dir());
        let label = format!(
            "x-{}-{:?}-{}-{:?}",
            offered.0, offered.1, accepted.0, accepted.1
        );
        let contact = alice.sees(bob);
        let ours = alice
            .create_tube(contact.handle, &label)
            .expect("CreateChannel");
        alice
            .offer_with(&ours, service.address(), offered.1, HashMap::new())
            .unwrap_or_else(|error| alice.fail(&format!("Offer {label}: {error}")));
        let theirs = bob.offered(&label);
        let caller = Caller::new(accepted.0, accepted.1);
        let parameter = caller.parameter(form);
        let door = bob
            .accept_with(&theirs, accepted.0, accepted.1, parameter)
            .unwrap_or_else(|error| bob.fail(&format!("Accept {label} {form:?}: {error}")));
        assert_eq!(door.kind(), accepted.0);
        let pair = Pair {
            alice,
            bob,
            service,
            ours,
            theirs,
            door,
        };
        (pair, caller)
    }

    /// Waits for NewRemoteConnection: its parameter and id.
    fn remote(&self) -> (OwnedVariant, u32) {
        self.alice.wait_for("NewRemoteConnection", |event| {
            let this = event.member == "NewRemoteConnection" && event.path == self.ours;
            let (_, parameter, id): (u32, OwnedVariant, u32) =
                this.then(|| event.arguments())??;
            Some((parameter, id))
        })
    }

    /// Waits for NewLocalConnection: its id.
    fn local(&self) -> u32 {
        self.bob.wait_for("NewLocalConnection", |event| {
            let this = event.member == "NewLocalConnection" && event.path == self.theirs;
            this.then(|| event.arguments::<u32>())?
        })
    }
}

/// `Connection_Param` is what the service itself sees of the connection.
fn check_parameter(parameter: &Variant<'_>, access: Access, service: &Echo) {
    let seen = service.seen();
    let [seen] = seen.as_slice() else {
        panic!("one connection, not {seen:?}");
    };
    match access {
        Access::Localhost => assert_eq!(*parameter, Variant::from(0u32)),
        Access::Port => {
            let from = seen.from.expect("an address");
            let told = Variant::new((from.ip().to_string(), from.port()));
            assert_eq!(*parameter, told);
        }
        Access::Credentials => {
            let (byte, writer) = seen.byte.expect("a byte");
            assert_eq!(*parameter, Variant::from(byte));
            let own = rustix::process::geteuid().as_raw();
            assert_eq!(writer, Some(own), "whose credentials are attached");
        }
    }
}

#[test]
fn every_way_against_every_other() {
    let (alice, bob) = alice_and_bob();
    let data: Vec<u8> = (0..300_000u32).map(|n| (n % 251) as u8).collect();
    let mut forms = PORT_FORMS.iter().cycle();
    for offered in WAYS {
        for accepted in WAYS {
            let form = match accepted.1 {
                Access::Port => *forms.next().expect("a cycle"),
                _ => PortForm::Exact,
            };
            let context = format!("{offered:?} to {accepted:?} {form:?}");
            let (pair, caller) = Pair::new((&alice, &bob), offered, accepted, form);
            let back = caller
                .enter(&pair.door)
                .and_then(|stream| exchange_on(stream, &data))
                .unwrap_or_else(|error| bob.fail(&format!("{context}: {error}")));
            assert!(back == data, "{context}: not the same bytes");
            let (parameter, remote) = pair.remote();
            check_parameter(&parameter, offered.1, &pair.service);
            let ended = (pair.local(), "Cancelled".into());
            assert_eq!(bob.connection_closed(&pair.theirs), ended, "{context}");
            let ended = (remote, "Cancelled".into());
            assert_eq!(alice.connection_closed(&pair.ours), ended, "{context}");
            alice.close(&pair.ours).expect("Close");
            bob.closed(&pair.theirs);
        }
    }
}

#[test]
fn what_is_listed_is_all_there_is() {
    let (alice, bob) = alice_and_bob();
    let service = Echo::ipv4();
    let contact = alice.sees(&bob);
    let ours = alice
        .create_tube(contact.handle, "x-listed")
        .expect("CreateChannel");
    let listed = |person: &Person, tube: &str| -> HashMap<u32, Vec<u32>> {
        person
            .property(tube, name::STREAM_TUBE, "SupportedSocketTypes")
            .expect("SupportedSocketTypes")
            .try_into()
            .expect("a{uau}")
    };
    let mut table: HashMap<u32, Vec<u32>> = HashMap::new();
    for (kind, access) in WAYS {
        table.entry(kind).or_default().push(access as u32);
    }
    assert_eq!(listed(&alice, &ours), table);
    let others: Vec<(u32, u32)> = (0..5)
        .flat_map(|kind| (0..5).map(move |access| (kind, access)))
        .filter(|(kind, access)| !table.get(kind).is_some_and(|known| known.contains(access)))
        .collect();
    // Netmask, and what the specification allows elsewhere only; numbers that mean nothing are
    // wrong arguments.
    let wanted = |kind: u32, access: u32| {
        if kind > 3 || access > 3 {
            "InvalidArgument"
        } else {
            "NotImplemented"
        }
    };
    for (kind, access) in &others {
        let body = (
            kind,
            service.address().to_variant(),
            access,
            no_parameters(),
        );
        let error = alice
            .on_object(&ours, name::STREAM_TUBE, "Offer", &body)
            .expect_err("an Offer that cannot be");
        assert_eq!(error.short(), wanted(*kind, *access), "{kind} {access}");
    }
    alice
        .offer(&ours, service.address(), no_parameters())
        .expect("Offer");
    let theirs = bob.offered("x-listed");
    assert_eq!(listed(&bob, &theirs), table);
    for (kind, access) in &others {
        let body = (kind, access, Variant::new(("127.0.0.1", 4000u16)));
        let error = bob
            .on_object(&theirs, name::STREAM_TUBE, "Accept", &body)
            .expect_err("an Accept that cannot be");
        assert_eq!(error.short(), wanted(*kind, *access), "{kind} {access}");
    }
    // A port nobody can have, and things that are no port.
    for parameter in [
        Variant::from(0u32),
        Variant::from("127.0.0.1:4000"),
        Variant::new(("127.0.0.1", 0u16)),
        Variant::new(("0.0.0.0", 0u16)),
        Variant::new(("::1", 4000u16)),
        Variant::new(("localhost", 4000u16)),
    ] {
        let error = bob
            .accept_with(&theirs, 2, Access::Port, parameter)
            .expect_err("an Accept that cannot be");
        assert_eq!(error.short(), "InvalidArgument", "{error}");
    }
    // None of that has done anything to the tube.
    let door = bob.accept(&theirs, 2).expect("Accept");
    let back = exchange_on(door.connect().expect("a connection"), b"still");
    assert_eq!(back.expect("bytes"), b"still");
}

fn no_parameters() -> HashMap<&'static str, Variant<'static>> {
    HashMap::new()
}

#[test]
fn a_connection_is_told_once_its_byte_is_there_and_the_silent_hold_up_nobody() {
    let (alice, bob) = alice_and_bob();
    for kind in [0, 1] {
        let way = (kind, Access::Credentials);
        let (pair, _) = Pair::new((&alice, &bob), way, way, PortForm::Exact);
        let mut silent = pair.door.connect().expect("a connection");
        // Others come after it and pass it by; one has no credentials to attach.
        let mut ids = Vec::new();
        for attach in [true, false] {
            let mut stream = pair.door.connect().expect("a connection");
            say_byte(&*stream, 5, attach).expect("a byte");
            // Before anybody can have taken the byte.
            stream.write_all(b"at once").expect("bytes");
            let mut back = [0; 7];
            stream.read_exact(&mut back).expect("bytes");
            assert_eq!(&back, b"at once");
            ids.push(pair.local());
        }
        let told = bob.events().waiting(|event| {
            let this = event.member == "NewLocalConnection" && event.path == pair.theirs;
            this.then(|| event.arguments::<u32>())?
        });
        assert_eq!(told, Vec::<u32>::new(), "beside {ids:?}");
        say_byte(&*silent, 0, true).expect("a byte");
        silent.write_all(b"late").expect("bytes");
        let mut back = [0; 4];
        silent.read_exact(&mut back).expect("bytes");
        assert_eq!(&back, b"late");
        assert!(!ids.contains(&pair.local()));
        // The service can tell all three apart.
        let bytes: Vec<_> = pair.service.seen().iter().map(|seen| seen.byte).collect();
        assert!(bytes[0] != bytes[1] && bytes[1] != bytes[2] && bytes[0] != bytes[2]);
    }
}

#[test]
fn with_port_nobody_else_of_the_same_user_comes_in() {
    let (alice, bob) = alice_and_bob();
    for kind in [2, 3] {
        let (offered, accepted) = ((0, Access::Localhost), (kind, Access::Port));
        let (pair, caller) = Pair::new((&alice, &bob), offered, accepted, PortForm::Exact);
        let mut heard = Vec::new();
        // It may be shown out before its connect returns, by a reset or an end of file.
        if let Ok(mut other) = pair.door.connect() {
            other.read_to_end(&mut heard).unwrap_or_default();
        }
        assert_eq!(heard, b"");
        let stream = caller.enter(&pair.door).expect("a connection");
        assert_eq!(exchange_on(stream, b"mine").expect("bytes"), b"mine");
        assert_eq!(pair.service.connections(), 1);
    }
}
