//! Phase by input.

use super::*;

/// How a state came to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    NotOffered,
    Offering,
    RemotePending,
    /// Offered, open, one connection.
    Dialled,
    LocalPending,
    /// Accepted, open, no connection yet.
    Accepting,
    /// Accepted, open, one connection.
    Connected,
    /// Accepted, one connection, closed by us: the contact is being told.
    Telling,
    /// Accepted, one connection, closed by the contact: the connection is being cut.
    Cutting,
    Closed,
}

fn state_at(at: At) -> State {
    let offering = matches!(
        at,
        At::NotOffered | At::Offering | At::RemotePending | At::Dialled
    );
    let mut state = State::new(&description(offering));
    let listening = [accept(), Input::Bound(Ok(bound()))];
    let inputs = match at {
        At::NotOffered | At::LocalPending => vec![],
        At::Offering => vec![offer()],
        At::RemotePending => vec![offer(), Input::OfferSent(Ok(()))],
        At::Dialled => vec![offer(), Input::OfferSent(Ok(())), dialled()],
        At::Accepting => listening.to_vec(),
        At::Connected => [&listening[..], &[accepted()]].concat(),
        At::Telling => [&listening[..], &[accepted(), Input::Close]].concat(),
        At::Cutting => [&listening[..], &[accepted(), Input::RemoteClosed]].concat(),
        At::Closed => vec![Input::Close],
    };
    for input in inputs {
        state.apply(input);
    }
    state
}

fn offer() -> Input {
    Input::Offer {
        target: target(),
        parameters: parameters(),
        check: Ok(()),
    }
}

fn bad_offer() -> Input {
    Input::Offer {
        target: target(),
        parameters: parameters(),
        check: Err(Error::InvalidArgument("too long".into())),
    }
}

fn sent() -> Input {
    Input::OfferSent(Ok(()))
}

fn unsent() -> Input {
    Input::OfferSent(Err(Error::NotCapable("no tubes".into())))
}

fn accept() -> Input {
    Input::Accept {
        kind: AddressType::Unix,
        access: AccessRule::Localhost,
    }
}

fn is_bound() -> Input {
    Input::Bound(Ok(bound()))
}

fn unbound() -> Input {
    Input::Bound(Err(Error::ResourceUnavailable("none".into())))
}

fn dialled() -> Input {
    Input::Dialled {
        token: Token(9),
        parameter: ConnectionParameter::Nothing,
    }
}

fn accepted() -> Input {
    Input::Accepted(Token(9))
}

fn incoming() -> Input {
    Input::Incoming { room: true }
}

fn full() -> Input {
    Input::Incoming { room: false }
}

fn ended() -> Input {
    Input::Ended(ConnectionId(1), ConnectionEnd::Finished)
}

fn close() -> Input {
    Input::Close
}

fn stopped() -> Input {
    Input::Stopped
}

fn theirs() -> Input {
    Input::RemoteClosed
}

fn gone() -> Input {
    Input::ContactGone
}

fn told() -> Input {
    Input::Overdue
}

fn failed() -> Input {
    Input::SiblingFailed("the listener failed".into())
}

/// An effect as one word, so that a cell of the table is one line.
fn word(effect: &Effect) -> String {
    let error = |error: &Error| match error {
        Error::NotAvailable(_) => "NotAvailable",
        Error::InvalidArgument(_) => "InvalidArgument",
        Error::NotCapable(_) => "NotCapable",
        Error::ResourceUnavailable(_) => "ResourceUnavailable",
        Error::Cancelled(_) => "Cancelled",
        Error::ConnectionLost(_) => "ConnectionLost",
        Error::ConnectionRefused(_) => "ConnectionRefused",
        _ => "another",
    };
    match effect {
        Effect::Signal(StreamTubeSignal::TubeStateChanged(state)) => format!("{state:?}!"),
        Effect::Signal(StreamTubeSignal::NewLocalConnection(id)) => format!("local{}!", id.0),
        Effect::Signal(StreamTubeSignal::NewRemoteConnection { id, .. }) => {
            format!("remote{}!", id.0)
        }
        Effect::Signal(StreamTubeSignal::ConnectionClosed { id, why }) => {
            format!("closed{}:{}!", id.0, error(why))
        }
        Effect::SendOffer(_) => "send".into(),
        Effect::AbandonOffer(why) => format!("abandon:{}", error(why)),
        Effect::Refuse(why) => format!("refuse:{}", error(why)),
        Effect::Offered(Ok(())) => "offered".into(),
        Effect::Offered(Err(why)) => format!("offered:{}", error(why)),
        Effect::Bind(..) => "bind".into(),
        Effect::Listen(_) => "listen".into(),
        Effect::Dial(_) => "dial".into(),
        Effect::RefuseIncoming(why) => format!("deny:{}", error(why)),
        Effect::Relay(_, id) => format!("relay{}", id.0),
        Effect::Discard(_) => "discard".into(),
        Effect::StopOpening => "stop".into(),
        Effect::Farewell => "farewell".into(),
        Effect::Cut => "cut".into(),
        Effect::Finish => "finish".into(),
    }
}

fn words(state: &mut State, input: Input) -> String {
    let words: Vec<String> = state.apply(input).iter().map(word).collect();
    words.join(" ")
}

macro_rules! table {
    ($($input:ident { $($at:ident => $expected:literal, $seen:ident;)* })*) => {
        $(mod $input {
            $(#[test]
            #[expect(non_snake_case, reason = "named after the phase")]
            fn $at() {
                let mut state = super::state_at(super::At::$at);
                assert_eq!(super::words(&mut state, super::$input()), $expected);
                assert_eq!(state.tube_state(), super::TubeState::$seen);
            })*
        })*
    };
}

table! {
    offer {
        NotOffered => "send", NotOffered;
        Offering => "refuse:NotAvailable", NotOffered;
        RemotePending => "refuse:NotAvailable", RemotePending;
        Dialled => "refuse:NotAvailable", Open;
        LocalPending => "refuse:NotAvailable", LocalPending;
        Accepting => "refuse:NotAvailable", Open;
        Connected => "refuse:NotAvailable", Open;
        Telling => "refuse:NotAvailable", Open;
        Cutting => "refuse:NotAvailable", Open;
        Closed => "refuse:NotAvailable", LocalPending;
    }
    bad_offer {
        NotOffered => "refuse:InvalidArgument", NotOffered;
        Offering => "refuse:NotAvailable", NotOffered;
        RemotePending => "refuse:NotAvailable", RemotePending;
        Dialled => "refuse:NotAvailable", Open;
        LocalPending => "refuse:NotAvailable", LocalPending;
        Accepting => "refuse:NotAvailable", Open;
        Connected => "refuse:NotAvailable", Open;
        Telling => "refuse:NotAvailable", Open;
        Cutting => "refuse:NotAvailable", Open;
        Closed => "refuse:NotAvailable", LocalPending;
    }
    sent {
        NotOffered => "", NotOffered;
        Offering => "RemotePending! offered", RemotePending;
        RemotePending => "", RemotePending;
        Dialled => "", Open;
        LocalPending => "", LocalPending;
        Accepting => "", Open;
        Connected => "", Open;
        Telling => "", Open;
        Cutting => "", Open;
        Closed => "", LocalPending;
    }
    unsent {
        NotOffered => "", NotOffered;
        Offering => "offered:NotCapable", NotOffered;
        RemotePending => "", RemotePending;
        Dialled => "", Open;
        Telling => "", Open;
        Closed => "", LocalPending;
    }
    accept {
        NotOffered => "refuse:NotAvailable", NotOffered;
        Offering => "refuse:NotAvailable", NotOffered;
        RemotePending => "refuse:NotAvailable", RemotePending;
        Dialled => "refuse:NotAvailable", Open;
        LocalPending => "bind", LocalPending;
        Accepting => "refuse:NotAvailable", Open;
        Connected => "refuse:NotAvailable", Open;
        Telling => "refuse:NotAvailable", Open;
        Cutting => "refuse:NotAvailable", Open;
        Closed => "refuse:NotAvailable", LocalPending;
    }
    is_bound {
        LocalPending => "Open! listen", Open;
        Accepting => "refuse:NotAvailable", Open;
        Telling => "refuse:NotAvailable", Open;
        Closed => "refuse:NotAvailable", LocalPending;
    }
    unbound {
        LocalPending => "refuse:ResourceUnavailable", LocalPending;
        Accepting => "refuse:ResourceUnavailable", Open;
        Closed => "refuse:ResourceUnavailable", LocalPending;
    }
    incoming {
        NotOffered => "deny:NotAvailable", NotOffered;
        Offering => "RemotePending! offered dial", RemotePending;
        RemotePending => "dial", RemotePending;
        Dialled => "dial", Open;
        LocalPending => "deny:NotAvailable", LocalPending;
        Accepting => "deny:NotAvailable", Open;
        Connected => "deny:NotAvailable", Open;
        Telling => "deny:NotAvailable", Open;
        Cutting => "deny:NotAvailable", Open;
        Closed => "deny:NotAvailable", LocalPending;
    }
    full {
        NotOffered => "deny:NotAvailable", NotOffered;
        Offering => "RemotePending! offered deny:ResourceUnavailable", RemotePending;
        RemotePending => "deny:ResourceUnavailable", RemotePending;
        Dialled => "deny:ResourceUnavailable", Open;
        LocalPending => "deny:NotAvailable", LocalPending;
        Accepting => "deny:NotAvailable", Open;
        Telling => "deny:NotAvailable", Open;
        Closed => "deny:NotAvailable", LocalPending;
    }
    dialled {
        NotOffered => "discard", NotOffered;
        Offering => "discard", NotOffered;
        RemotePending => "Open! remote1! relay1", Open;
        Dialled => "remote2! relay2", Open;
        LocalPending => "discard", LocalPending;
        Accepting => "discard", Open;
        Connected => "discard", Open;
        Telling => "discard", Open;
        Cutting => "discard", Open;
        Closed => "discard", LocalPending;
    }
    accepted {
        NotOffered => "discard", NotOffered;
        RemotePending => "discard", RemotePending;
        Dialled => "discard", Open;
        LocalPending => "discard", LocalPending;
        Accepting => "local1! relay1", Open;
        Connected => "local2! relay2", Open;
        Telling => "discard", Open;
        Cutting => "discard", Open;
        Closed => "discard", LocalPending;
    }
    ended {
        NotOffered => "", NotOffered;
        Offering => "", NotOffered;
        RemotePending => "", RemotePending;
        Dialled => "closed1:Cancelled!", Open;
        LocalPending => "", LocalPending;
        Accepting => "", Open;
        Connected => "closed1:Cancelled!", Open;
        Telling => "closed1:Cancelled! finish", Open;
        Cutting => "closed1:Cancelled! finish", Open;
        Closed => "", LocalPending;
    }
    close {
        NotOffered => "stop finish", NotOffered;
        Offering => "abandon:Cancelled stop farewell finish", NotOffered;
        RemotePending => "stop farewell finish", RemotePending;
        Dialled => "stop farewell", Open;
        LocalPending => "stop farewell finish", LocalPending;
        Accepting => "stop farewell finish", Open;
        Connected => "stop farewell", Open;
        Telling => "", Open;
        Cutting => "", Open;
        Closed => "", LocalPending;
    }
    stopped {
        NotOffered => "stop finish", NotOffered;
        Offering => "abandon:Cancelled stop farewell finish", NotOffered;
        RemotePending => "stop farewell finish", RemotePending;
        Dialled => "stop farewell", Open;
        LocalPending => "stop farewell finish", LocalPending;
        Accepting => "stop farewell finish", Open;
        Connected => "stop farewell", Open;
        Telling => "", Open;
        Cutting => "", Open;
        Closed => "", LocalPending;
    }
    theirs {
        NotOffered => "stop finish", NotOffered;
        Offering => "abandon:Cancelled stop finish", NotOffered;
        RemotePending => "stop finish", RemotePending;
        Dialled => "stop cut", Open;
        LocalPending => "stop finish", LocalPending;
        Accepting => "stop finish", Open;
        Connected => "stop cut", Open;
        Telling => "cut", Open;
        Cutting => "", Open;
        Closed => "", LocalPending;
    }
    gone {
        NotOffered => "", NotOffered;
        Offering => "", NotOffered;
        RemotePending => "stop finish", RemotePending;
        Dialled => "stop cut", Open;
        LocalPending => "stop finish", LocalPending;
        Accepting => "stop finish", Open;
        Connected => "stop cut", Open;
        Telling => "cut", Open;
        Cutting => "", Open;
        Closed => "", LocalPending;
    }
    told {
        NotOffered => "", NotOffered;
        RemotePending => "", RemotePending;
        Dialled => "", Open;
        Accepting => "", Open;
        Connected => "", Open;
        Telling => "cut", Open;
        Cutting => "", Open;
        Closed => "", LocalPending;
    }
    failed {
        NotOffered => "stop finish", NotOffered;
        RemotePending => "stop farewell finish", RemotePending;
        Dialled => "stop farewell", Open;
        Accepting => "stop farewell finish", Open;
        Connected => "stop farewell", Open;
        Telling => "cut", Open;
        Cutting => "", Open;
        Closed => "", LocalPending;
    }
}

/// What `ConnectionClosed` says, for each way a connection ends while its tube stays open.
#[test]
fn each_end_has_its_error() {
    let error = Error::Offline("gone".into());
    let text = || "it broke".to_owned();
    let ends = [
        (ConnectionEnd::Finished, "closed1:Cancelled!"),
        (ConnectionEnd::LocalReset, "closed1:Cancelled!"),
        (ConnectionEnd::Stopped, "closed1:Cancelled!"),
        (
            ConnectionEnd::Refused(error.clone()),
            "closed1:ConnectionRefused!",
        ),
        (ConnectionEnd::NotOpened(error), "closed1:ConnectionLost!"),
        (ConnectionEnd::RemoteReset, "closed1:ConnectionLost!"),
        (ConnectionEnd::RemoteLost(text()), "closed1:ConnectionLost!"),
        (ConnectionEnd::Failed(text()), "closed1:ConnectionLost!"),
    ];
    for (end, expected) in ends {
        let mut state = state_at(At::Connected);
        assert_eq!(
            words(&mut state, Input::Ended(ConnectionId(1), end)),
            expected
        );
    }
}

#[test]
fn a_gone_contact_and_a_failure_lose_connections() {
    for input in [gone(), failed()] {
        let mut state = state_at(At::Connected);
        state.apply(input);
        assert_eq!(words(&mut state, ended()), "closed1:ConnectionLost! finish");
    }
}

#[test]
fn ids_end_when_they_run_out() {
    let mut state = state_at(At::Accepting);
    state.next_id = u32::MAX - 1;
    assert_eq!(
        words(&mut state, accepted()),
        "local4294967294! relay4294967294"
    );
    for _ in 0..3 {
        assert_eq!(words(&mut state, accepted()), "discard");
    }
    assert_eq!(state.connections().len(), 1);
}

#[test]
fn an_offer_that_died_may_be_made_again() {
    let state = state_at(At::Offering).recover();
    assert_eq!(*state.phase(), Phase::NotOffered);
    for at in [
        At::NotOffered,
        At::RemotePending,
        At::Dialled,
        At::Connected,
        At::Telling,
        At::Closed,
    ] {
        assert_eq!(state_at(at).recover(), state_at(at));
    }
}

#[test]
fn parameters_are_those_that_were_sent() {
    assert_eq!(
        *state_at(At::Offering).parameters(),
        TubeParameters::default()
    );
    assert_eq!(*state_at(At::RemotePending).parameters(), parameters());
}

#[test]
fn a_tube_the_contact_does_not_know_any_more_closes() {
    let mut state = state_at(At::Connected);
    let id = *state.connections().first().unwrap();
    let unknown = ConnectionEnd::Refused(Error::NotAvailable("no such tube".into()));
    let effects = state.apply(Input::Ended(id, unknown));
    let words: Vec<String> = effects.iter().map(word).collect();
    // Nobody is told: there is nobody who would know what for.
    let closed = format!("closed{}:ConnectionRefused!", id.0);
    assert_eq!(words, [closed.as_str(), "stop", "finish"]);
}

#[test]
fn a_failure_while_closing_is_what_ends_the_connections() {
    let mut state = state_at(At::Cutting);
    state.apply(failed());
    let effects = state.apply(ended());
    assert_eq!(word(&effects[0]), "closed1:ConnectionLost!");
}

#[test]
fn a_closing_tube_concerns_the_contact_unless_it_closed_it() {
    assert!(state_at(At::Telling).concerns_the_contact());
    assert!(!state_at(At::Cutting).concerns_the_contact());
}
