//! Clients of the small bus that break every rule, beside one that keeps them.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    os::unix::net::UnixStream,
};

use pneuma::client::sharing::{MAX_CLIENTS, MOST_BYTES};
use smol::future::{or, yield_now};
use support::CallError;
use zbus::{Message, connection::Builder};

use crate::{
    halves::{Halves, NAME, PATH},
    hostile::soon,
};

const BUS: &str = "org.freedesktop.DBus";
const BUS_PATH: &str = "/org/freedesktop/DBus";
const PEER: &str = "org.freedesktop.DBus.Peer";

/// A client of the library's.
async fn client(halves: &Halves) -> zbus::Connection {
    let built = Builder::address(halves.address.as_str()).build();
    built.await.expect("a client")
}

async fn ask<B>(client: &zbus::Connection, member: &str, body: &B) -> Result<Message, CallError>
where
    B: serde::Serialize + zbus::DynamicType,
{
    let call = client.call_method(Some(BUS), BUS_PATH, Some(BUS), member, body);
    call.await.map_err(CallError::from)
}

/// That the service can be called.
async fn ping(client: &zbus::Connection) {
    let call = client.call_method(Some(NAME), PATH, Some(PEER), "Ping", &());
    call.await.expect("an answer");
}

/// A client that greets, says Hello, and then does what it likes.
struct Raw(BufReader<UnixStream>);

impl Raw {
    fn enter(halves: &Halves) -> Self {
        let mut raw = Raw::connect(halves);
        raw.say(hello().data().bytes()).expect("a client");
        raw
    }

    fn connect(halves: &Halves) -> Self {
        let path = halves.address.trim_start_matches("unix:path=");
        let stream = UnixStream::connect(path).expect("the small bus");
        let mut raw = Raw(BufReader::new(stream));
        raw.say(b"\0AUTH EXTERNAL\r\nDATA\r\n").expect("a greeting");
        let mut line = String::new();
        while !line.starts_with("OK ") {
            line.clear();
            raw.0.read_line(&mut line).expect("a greeting");
        }
        raw.say(b"BEGIN\r\n").expect("a greeting");
        raw
    }

    fn say(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.0.get_mut().write_all(bytes)
    }

    /// Reads on until it is hung up on.
    fn closed(mut self) -> bool {
        let patience = Some(support::PATIENCE);
        self.0
            .get_ref()
            .set_read_timeout(patience)
            .expect("a limit");
        let mut rest = Vec::new();
        match self.0.read_to_end(&mut rest) {
            Ok(_) => true,
            Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }
}

fn of_bus(member: &str) -> Message {
    Message::method_call(BUS_PATH, member)
        .interface(BUS)
        .destination(BUS)
        .build(&())
        .expect("a call")
}

fn hello() -> Message {
    of_bus("Hello")
}

#[test]
fn a_client_too_many_waits_for_its_place() {
    let halves = Halves::start(|filter| filter);
    halves.wait_for_service();
    soon(async {
        let mut clients = Vec::new();
        for _ in 0..MAX_CLIENTS {
            clients.push(client(&halves).await);
        }
        let mut late = std::pin::pin!(client(&halves));
        let others = async {
            for client in &clients {
                ping(client).await;
            }
            yield_now().await;
        };
        let came = or(async { Some(late.as_mut().await) }, async {
            others.await;
            None
        });
        assert!(came.await.is_none(), "a client too many");
        drop(clients.pop());
        ping(&late.await).await;
    });
}

#[test]
fn who_says_what_is_no_message_is_closed_alone() {
    let halves = Halves::start(|filter| filter);
    halves.wait_for_service();
    let good = soon(client(&halves));
    let mut large = vec![b'l', 1, 0, 1];
    for number in [u32::try_from(MOST_BYTES).expect("a bound"), 5, 0] {
        large.extend(number.to_le_bytes());
    }
    for bytes in [
        vec![0; 64],
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(),
        large,
        // Once is enough.
        hello().data().bytes().to_vec(),
    ] {
        let mut bad = Raw::enter(&halves);
        bad.say(&bytes).expect("said");
        assert!(bad.closed(), "{bytes:?}");
        soon(ping(&good));
    }
    let mut rude = Raw::connect(&halves);
    let call = of_bus("ListNames");
    rude.say(call.data().bytes()).expect("said");
    assert!(rude.closed(), "Hello comes first");
    soon(ping(&good));
}

#[test]
fn who_does_not_read_is_closed_alone() {
    let halves = Halves::start(|filter| filter);
    halves.wait_for_service();
    let good = soon(client(&halves));
    let mut deaf = Raw::enter(&halves);
    let call = of_bus("ListNames");
    // Far more than may wait and than sockets hold.
    let heard = (0..100_000).take_while(|_| deaf.say(call.data().bytes()).is_ok());
    assert!(heard.count() < 100_000, "nobody minds");
    soon(ping(&good));
}

#[test]
fn match_rules_are_counted_for_each_client() {
    let halves = Halves::start(|filter| filter);
    halves.wait_for_service();
    soon(async {
        let (many, other) = (client(&halves).await, client(&halves).await);
        let mut taken = 0;
        let refused = loop {
            match ask(&many, "AddMatch", &format!("arg0='{taken}'")).await {
                Ok(_) => taken += 1,
                Err(refused) => break refused,
            }
            assert!(taken < 10_000, "there is no limit");
        };
        assert_eq!((taken, refused.short()), (512, "LimitsExceeded"));
        ask(&other, "AddMatch", &"arg0='x'").await.expect("a rule");
        ask(&many, "RemoveMatch", &"arg0='7'")
            .await
            .expect("one less");
        ask(&many, "AddMatch", &"arg0='7'").await.expect("a rule");
        let long = format!("arg0='{}'", "x".repeat(2000));
        let refused = ask(&other, "AddMatch", &long).await.expect_err("too long");
        assert_eq!(refused.short(), "LimitsExceeded");
    });
}

#[test]
fn names_cannot_be_had() {
    let halves = Halves::start(|filter| filter);
    halves.wait_for_service();
    soon(async {
        let client = client(&halves).await;
        for name in [NAME, "org.example.Mine"] {
            let refused = ask(&client, "RequestName", &(name, 0u32)).await;
            assert_eq!(refused.expect_err("a name").short(), "AccessDenied");
        }
        let names = ask(&client, "ListNames", &()).await.expect("names");
        let names: Vec<String> = names.body().deserialize().expect("names");
        assert_eq!(
            names.iter().filter(|name| !name.starts_with(':')).count(),
            2
        );
    });
}
