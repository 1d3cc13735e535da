//! D-Bus tubes from outside: two connection managers, two buses, the loopback interface, and applications
//! that speak D-Bus to each other.

mod closing;
mod library;
mod messages;
mod opening;
mod trouble;

use support::{Person, service};

/// Two people who are online and see each other.
fn alice_and_bob() -> (Person, Person) {
    Person::alice_and_bob(service!())
}

/// Where the applications have their object.
const BOARD: &str = "/com/example/Chess/Board";

/// What an application has for the other one: a board on which moves are made.
struct Board {
    /// Whose it is.
    of: &'static str,
}

#[zbus::interface(name = "com.example.Chess.Board")]
impl Board {
    /// Whose board it is, and the move again.
    async fn play(&self, r#move: &str) -> (String, String) {
        (self.of.to_owned(), r#move.to_owned())
    }

    /// What was given.
    async fn echo(&self, bytes: Vec<u8>) -> Vec<u8> {
        bytes
    }

    /// Refuses.
    async fn cheat(&self) -> zbus::fdo::Result<()> {
        Err(zbus::fdo::Error::AccessDenied("not at this board".into()))
    }

    /// Somebody has moved.
    #[zbus(signal)]
    async fn moved(
        emitter: &zbus::object_server::SignalEmitter<'_>,
        r#move: &str,
    ) -> zbus::Result<()>;
}
