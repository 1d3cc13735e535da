//! The few words of SOCKS5 (RFC 1928) that XEP-0065 needs, both sides, as pure state machines.
//!
//! ```text
//! Client:  Greeting ──05 00──► Request ──05 00 00 atyp…──► Address ──rest──► done
//!          writes 05 01 00     writes the request           ignores what it reads
//!
//! Server:  Greeting ──05 n──► Methods ──n methods──► Request ──05 01 00 03 28──► Name ──► done
//!                              writes 05 00                    40 digits, port 0   writes success
//! ```
//!
//! Each side asks for an exact number of bytes ([`Client::wants`], [`Server::wants`]) and never for
//! more, so nothing of what follows the handshake is swallowed. The most either ever asks for is 257.
//! Any byte out of place ends it.

/// The digits of a destination: SHA-1 in hexadecimal.
const NAME_LENGTH: u8 = 40;

const VERSION: u8 = 5;
const NO_AUTHENTICATION: u8 = 0;
const NOTHING_ACCEPTABLE: u8 = 0xff;
const CONNECT: u8 = 1;
const DOMAIN_NAME: u8 = 3;
const NOT_ALLOWED: u8 = 2;

/// The handshake cannot succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum SocksError {
    /// Not SOCKS5 as XEP-0065 uses it.
    #[error("it does not speak SOCKS5")]
    Protocol,
    /// It wants a user name and a password.
    #[error("it wants authentication")]
    Authentication,
    /// It does not know the bytestream, or we do not.
    #[error("the bytestream is unknown")]
    Refused,
}

/// What a side does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Write this, then read `wants` bytes.
    Write(Vec<u8>),
    /// Read `wants` bytes.
    Read,
    /// Write this, then the bytestream begins.
    Done(Vec<u8>),
    /// Write this, then give up.
    Fail(Vec<u8>, SocksError),
}

/// The side that dialled.
#[derive(Debug)]
pub(super) struct Client {
    name: String,
    state: ClientState,
}

#[derive(Debug)]
enum ClientState {
    Greeting,
    Request,
    Address(usize),
}

impl Client {
    /// Asks for a destination ([`crate::xmpp::payload::bytestreams::destination`]), and what to
    /// write first. Exactly `05 01 00`: Pidgin understands nothing else.
    pub(super) fn new(destination: String) -> (Client, Vec<u8>) {
        let client = Client {
            name: destination,
            state: ClientState::Greeting,
        };
        (client, vec![VERSION, 1, NO_AUTHENTICATION])
    }

    /// How many bytes to read.
    pub(super) fn wants(&self) -> usize {
        match self.state {
            ClientState::Greeting => 2,
            ClientState::Request => 5,
            ClientState::Address(rest) => rest,
        }
    }

    /// Takes them.
    pub(super) fn read(&mut self, bytes: &[u8]) -> Step {
        match (&self.state, bytes) {
            (ClientState::Greeting, [VERSION, NO_AUTHENTICATION]) => {
                let mut request = vec![VERSION, CONNECT, 0, DOMAIN_NAME];
                request.push(u8::try_from(self.name.len()).unwrap_or(u8::MAX));
                request.extend(self.name.bytes().take(usize::from(u8::MAX)));
                request.extend([0, 0]);
                self.state = ClientState::Request;
                Step::Write(request)
            }
            (ClientState::Greeting, [VERSION, _]) => {
                Step::Fail(Vec::new(), SocksError::Authentication)
            }
            (ClientState::Request, [VERSION, 0, _, kind, first]) => {
                // The first byte of the address is read already. What is in the address does not
                // matter: Pidgin puts its own there.
                let address = match *kind {
                    1 => 3,
                    DOMAIN_NAME => usize::from(*first),
                    4 => 15,
                    _ => return Step::Fail(Vec::new(), SocksError::Protocol),
                };
                self.state = ClientState::Address(address + 2);
                Step::Read
            }
            (ClientState::Request, [VERSION, ..]) => Step::Fail(Vec::new(), SocksError::Refused),
            (ClientState::Address(_), _) => Step::Done(Vec::new()),
            _ => Step::Fail(Vec::new(), SocksError::Protocol),
        }
    }
}

/// The side that listened.
#[derive(Debug)]
pub(super) struct Server {
    name: String,
    state: ServerState,
}

#[derive(Debug)]
enum ServerState {
    Greeting,
    Methods(usize),
    Request,
    Name,
}

impl Server {
    /// Waits for somebody who asks for this destination.
    pub(super) fn new(destination: String) -> Server {
        Server {
            name: destination,
            state: ServerState::Greeting,
        }
    }

    /// How many bytes to read.
    pub(super) fn wants(&self) -> usize {
        match self.state {
            ServerState::Greeting => 2,
            ServerState::Methods(count) => count,
            ServerState::Request => 5,
            ServerState::Name => usize::from(NAME_LENGTH) + 2,
        }
    }

    /// Takes them.
    pub(super) fn read(&mut self, bytes: &[u8]) -> Step {
        match (&self.state, bytes) {
            (ServerState::Greeting, [VERSION, count]) if *count > 0 => {
                self.state = ServerState::Methods(usize::from(*count));
                Step::Read
            }
            (ServerState::Methods(_), methods) => {
                if methods.contains(&NO_AUTHENTICATION) {
                    self.state = ServerState::Request;
                    Step::Write(vec![VERSION, NO_AUTHENTICATION])
                } else {
                    Step::Fail(
                        vec![VERSION, NOTHING_ACCEPTABLE],
                        SocksError::Authentication,
                    )
                }
            }
            (ServerState::Request, [VERSION, CONNECT, 0, DOMAIN_NAME, NAME_LENGTH]) => {
                self.state = ServerState::Name;
                Step::Read
            }
            (ServerState::Name, [name @ .., _, _]) if *name == *self.name.as_bytes() => {
                Step::Done(self.answer(0))
            }
            (ServerState::Name, _) => Step::Fail(self.answer(NOT_ALLOWED), SocksError::Refused),
            _ => Step::Fail(Vec::new(), SocksError::Protocol),
        }
    }

    fn answer(&self, code: u8) -> Vec<u8> {
        let mut answer = vec![VERSION, code, 0, DOMAIN_NAME, NAME_LENGTH];
        // Not the real name to somebody who asked for another one.
        if code == 0 {
            answer.extend(self.name.bytes());
        } else {
            answer.extend([b'0'; NAME_LENGTH as usize]);
        }
        answer.extend([0, 0]);
        answer
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NAME: &str = "0123456789abcdef0123456789abcdef01234567";

    /// Runs both against each other; what each came to.
    fn meet(asked: &str, known: &str) -> (Result<(), SocksError>, Result<(), SocksError>) {
        let (mut client, greeting) = Client::new(asked.into());
        let mut server = Server::new(known.into());
        let (mut to_server, mut to_client) = (greeting, Vec::new());
        let (mut at_client, mut at_server) = (None, None);
        while at_client.is_none() || at_server.is_none() {
            let mut moved = false;
            if at_server.is_none() && to_server.len() >= server.wants() {
                let rest = to_server.split_off(server.wants());
                moved = true;
                match server.read(&to_server) {
                    Step::Write(bytes) => to_client.extend(bytes),
                    Step::Read => {}
                    Step::Done(bytes) => {
                        to_client.extend(bytes);
                        at_server = Some(Ok(()));
                    }
                    Step::Fail(bytes, error) => {
                        to_client.extend(bytes);
                        at_server = Some(Err(error));
                    }
                }
                to_server = rest;
            }
            if at_client.is_none() && to_client.len() >= client.wants() {
                let rest = to_client.split_off(client.wants());
                moved = true;
                match client.read(&to_client) {
                    Step::Write(bytes) => to_server.extend(bytes),
                    Step::Read => {}
                    Step::Done(_) => at_client = Some(Ok(())),
                    Step::Fail(_, error) => at_client = Some(Err(error)),
                }
                to_client = rest;
            }
            if !moved {
                break;
            }
        }
        assert!(
            to_server.is_empty()
                && (to_client.is_empty() || at_client == Some(Err(SocksError::Refused)))
        );
        (
            at_client.unwrap_or(Err(SocksError::Protocol)),
            at_server.unwrap_or(Err(SocksError::Protocol)),
        )
    }

    #[test]
    fn both_sides_meet_at_the_same_name_only() {
        assert_eq!(meet(NAME, NAME), (Ok(()), Ok(())));
        let other = NAME.replace('0', "1");
        assert_eq!(
            meet(&other, NAME),
            (Err(SocksError::Refused), Err(SocksError::Refused))
        );
    }

    #[test]
    fn the_client_greets_as_pidgin_wants_and_takes_its_answer() {
        let (mut client, greeting) = Client::new(NAME.into());
        assert_eq!(greeting, [5, 1, 0]);
        assert_eq!(client.wants(), 2);
        assert!(matches!(client.read(&[5, 0]), Step::Write(request) if request.len() == 47));
        assert_eq!(client.wants(), 5);
        // An IPv4 address where the name should be.
        assert_eq!(client.read(&[5, 0, 0, 1, 192]), Step::Read);
        assert_eq!(client.wants(), 5);
        assert_eq!(client.read(&[0, 2, 1, 0x1f, 0x90]), Step::Done(vec![]));
    }

    #[test]
    fn the_client_understands_every_kind_of_address() {
        for (kind, first, rest) in [
            (1, 10, 5),
            (3, 40, 42),
            (3, 0, 2),
            (3, 255, 257),
            (4, 0, 17),
        ] {
            let (mut client, _) = Client::new(NAME.into());
            client.read(&[5, 0]);
            assert_eq!(client.read(&[5, 0, 0, kind, first]), Step::Read);
            assert_eq!(client.wants(), rest);
        }
        let (mut client, _) = Client::new(NAME.into());
        client.read(&[5, 0]);
        assert_eq!(
            client.read(&[5, 0, 0, 2, 0]),
            Step::Fail(vec![], SocksError::Protocol)
        );
    }

    #[test]
    fn the_server_refuses_what_is_not_exactly_right() {
        let greeted = || {
            let mut server = Server::new(NAME.into());
            assert_eq!(server.read(&[5, 2]), Step::Read);
            assert_eq!(server.wants(), 2);
            assert_eq!(server.read(&[2, 0]), Step::Write(vec![5, 0]));
            server
        };
        let failed = |step| matches!(step, Step::Fail(..));
        assert!(failed(Server::new(NAME.into()).read(&[4, 1])));
        assert!(failed(Server::new(NAME.into()).read(&[5, 0])));
        for request in [
            [4, 1, 0, 3, 40],
            [5, 2, 0, 3, 40],
            [5, 1, 1, 3, 40],
            [5, 1, 0, 1, 40],
            [5, 1, 0, 3, 39],
        ] {
            assert!(failed(greeted().read(&request)), "{request:?}");
        }
        let mut server = Server::new(NAME.into());
        server.read(&[5, 1]);
        assert_eq!(
            server.read(&[2]),
            Step::Fail(vec![5, 255], SocksError::Authentication)
        );
    }

    #[test]
    fn who_asks_for_another_name_does_not_learn_the_right_one() {
        let mut server = Server::new(NAME.into());
        server.read(&[5, 1]);
        server.read(&[0]);
        server.read(&[5, 1, 0, 3, 40]);
        let Step::Fail(answer, SocksError::Refused) = server.read(&[b'x'; 42]) else {
            panic!("was let in");
        };
        assert!(!answer.windows(8).any(|part| part == &NAME.as_bytes()[..8]));
    }

    proptest! {
        #[test]
        fn no_bytes_make_either_side_panic_or_ask_for_much(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            let mut server = Server::new(NAME.into());
            let (mut client, _) = Client::new(NAME.into());
            let mut rest = &bytes[..];
            while server.wants() <= rest.len() {
                prop_assert!((1..=257).contains(&server.wants()));
                let (now, after) = rest.split_at(server.wants());
                rest = after;
                if matches!(server.read(now), Step::Done(_) | Step::Fail(..)) {
                    break;
                }
            }
            let mut rest = &bytes[..];
            while client.wants() <= rest.len() {
                prop_assert!((1..=257).contains(&client.wants()));
                let (now, after) = rest.split_at(client.wants());
                rest = after;
                if matches!(client.read(now), Step::Done(_) | Step::Fail(..)) {
                    break;
                }
            }
        }
    }
}
