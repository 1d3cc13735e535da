//! What follows from each input in each phase.

use super::*;
use FileTransferReason::{LocalError, LocalStopped, None as NoReason, RemoteError, RemoteStopped};
use FileTransferState::{Accepted, Cancelled, Completed, Open, Pending};

/// A state that has taken these inputs.
fn after(mut state: State, inputs: &[Input]) -> State {
    for input in inputs {
        state.apply(input.clone());
    }
    state
}

fn bound() -> Input {
    Input::Bound(Ok(address()))
}

/// Each phase that there is, with its name.
fn phases() -> Vec<(&'static str, State)> {
    let all = [Input::Ended(FlowEnd::Completed)];
    let broken = [Input::Ended(FlowEnd::RemoteError(lost()))];
    let open = [Input::Agreed(at(10)), provide(None), bound(), opened(10)];
    let taken = [accept(10), bound(), opened(10)];
    let (sent, received) = (after(sending(), &open), after(receiving(), &taken));
    vec![
        ("offered", sending()),
        ("provided", after(sending(), &[provide(None), bound()])),
        ("agreed", after(sending(), &open[..1])),
        ("opening, sending", after(sending(), &open[..3])),
        ("completed, sending", after(sent.clone(), &all)),
        ("cancelled, sending", after(sent.clone(), &broken)),
        ("open, sending", sent),
        ("asked", receiving()),
        ("opening, receiving", after(receiving(), &taken[..2])),
        ("completed, receiving", after(received.clone(), &all)),
        ("cancelled, receiving", after(received.clone(), &broken)),
        ("open, receiving", received),
    ]
}

fn phase(name: &str) -> State {
    let found = phases().into_iter().find(|(known, _)| *known == name);
    found.expect("a phase").1
}

fn refusal(effects: &[Effect]) -> Option<&'static str> {
    match effects {
        [Effect::Refuse(Error::NotAvailable(_))] => Some("NotAvailable"),
        [Effect::Refuse(Error::InvalidArgument(_))] => Some("InvalidArgument"),
        [Effect::Refuse(Error::NotImplemented(_))] => Some("NotImplemented"),
        [Effect::Refuse(_)] => Some("another error"),
        _ => None,
    }
}

#[test]
fn each_phase_has_its_state() {
    for (name, state) in phases() {
        let expected = match name.split(',').next().unwrap_or_default() {
            "offered" | "provided" | "asked" => Pending,
            "agreed" | "opening" => Accepted,
            "open" => Open,
            "completed" => Completed,
            "cancelled" => Cancelled,
            other => panic!("{other}"),
        };
        assert_eq!(state.transfer_state(), expected, "{name}");
        let cancelled = expected == Cancelled;
        assert_eq!(state.reason() != NoReason, cancelled, "{name}");
        assert_eq!(state.error().is_some(), cancelled, "{name}");
    }
}

#[test]
fn a_file_is_provided_once_while_it_may_be() {
    for (name, mut state) in phases() {
        let effects = state.apply(provide(None));
        match name {
            "offered" | "agreed" => assert_eq!(effects, [bind()], "{name}"),
            _ => assert_eq!(refusal(&effects), Some("NotAvailable"), "{name}"),
        }
    }
}

#[test]
fn a_file_is_accepted_once_while_it_may_be() {
    for (name, mut state) in phases() {
        let effects = state.apply(accept(0));
        match name {
            "asked" => assert_eq!(effects, [bind()], "{name}"),
            _ => assert_eq!(refusal(&effects), Some("NotAvailable"), "{name}"),
        }
    }
}

#[test]
fn an_application_that_stores_is_remembered_as_one() {
    let Input::Accept {
        kind, access, from, ..
    } = accept(0)
    else {
        unreachable!("it is one")
    };
    let storing = Input::Accept {
        kind,
        access,
        from,
        stores: true,
    };
    assert!(!after(receiving(), &[accept(0), bound()]).stores());
    // Not by a request that came to nothing.
    let failed = Input::Bound(Err(Error::NotImplemented("no such socket".into())));
    assert!(!after(receiving(), &[storing.clone(), failed]).stores());
    let state = after(receiving(), &[storing, bound()]);
    assert!(state.stores() && state.recover().stores());
}

#[test]
fn only_of_what_the_contact_sends_is_said_whether_it_is_verified() {
    for (name, mut state) in phases() {
        let before = state.clone();
        for verified in [Some(5), None] {
            let effects = state.apply(Input::IsVerified(verified));
            match state.way {
                Way::Sending => assert_eq!(refusal(&effects), Some("NotAvailable"), "{name}"),
                Way::Receiving => assert_eq!(effects, [Effect::Say(verified)], "{name}"),
            }
        }
        assert_eq!(state, before, "{name}");
    }
}

#[test]
fn what_cannot_be_bound_changes_nothing() {
    let why = Error::NotImplemented("no such socket".into());
    for (mut state, request) in [(sending(), provide(None)), (receiving(), accept(5))] {
        let before = state.clone();
        state.apply(request.clone());
        let effects = state.apply(Input::Bound(Err(why.clone())));
        assert_eq!(refusal(&effects), Some("NotImplemented"));
        assert_eq!(state, before);
        assert_eq!(state.apply(request), [bind()], "it may be tried again");
    }
}

#[test]
fn the_file_begins_where_the_contact_wants_it_or_at_its_beginning() {
    for (from, start) in [(None, 10), (Some(10), 10), (Some(0), 0)] {
        let mut state = phase("agreed");
        assert_eq!(state.apply(provide(from)), [bind()]);
        assert_eq!(
            state.apply(bound()),
            [Effect::Listen(address()), Effect::Start(at(start))]
        );
    }
    let effects = phase("agreed").apply(provide(Some(5)));
    assert_eq!(refusal(&effects), Some("InvalidArgument"));
    // Before the contact has said where, only the beginning can be named.
    assert_eq!(sending().apply(provide(Some(0))), [bind()]);
    let effects = sending().apply(provide(Some(10)));
    assert_eq!(refusal(&effects), Some("NotAvailable"));
}

#[test]
fn a_file_provided_before_starts_when_the_contact_wants_it() {
    for (from, start) in [(None, 10), (Some(0), 0)] {
        let mut state = after(sending(), &[provide(from), bound()]);
        assert_eq!(state.address(), Some(&address()));
        assert_eq!(
            state.apply(Input::Agreed(at(10))),
            [
                Effect::Signal(FileTransferSignal::AskedDefined(at(10))),
                said(Accepted, NoReason),
                Effect::Start(at(start)),
            ]
        );
        assert_eq!(state.asked(), Some(&at(10)));
    }
}

#[test]
fn a_contact_cannot_want_what_is_behind_the_end() {
    let mut state = sending();
    let effects = state.apply(Input::Agreed(at(SIZE + 1)));
    assert!(effects.contains(&said(Cancelled, RemoteError)));
    assert!(effects.contains(&Effect::StopFlow(AbortReason::Failed)));
    let mut state = sending();
    state.apply(Input::Agreed(at(SIZE)));
    assert_eq!(state.transfer_state(), Accepted, "nothing is left to send");
}

#[test]
fn an_offset_is_within_the_file_and_0_without_ranges() {
    let effects = receiving().apply(accept(SIZE + 1));
    assert_eq!(refusal(&effects), Some("InvalidArgument"));
    for (has_ranges, start) in [(true, 60), (false, 0)] {
        let mut state = State::new(&description(false, has_ranges), Way::Receiving);
        state.apply(accept(60));
        assert_eq!(
            state.apply(bound()),
            [
                Effect::Listen(address()),
                said(Accepted, NoReason),
                Effect::Start(at(start)),
            ]
        );
        assert_eq!(
            state.asked(),
            None,
            "what we ask for is no property of ours"
        );
    }
}

#[test]
fn the_offset_is_defined_before_it_is_open() {
    for (name, mut state) in phases() {
        let before = state.clone();
        let effects = state.apply(opened(10));
        if !name.starts_with("opening") {
            assert_eq!(effects, [], "{name}");
            assert_eq!(state, before, "{name}");
            continue;
        }
        assert_eq!(
            effects,
            [
                Effect::Signal(FileTransferSignal::InitialOffsetDefined(10)),
                said(Open, NoReason),
                Effect::Flow,
            ]
        );
        assert_eq!(state.initial_offset(), Some(10));
        assert_eq!(state.encrypted(), Some(true));
    }
}

#[test]
fn the_uri_is_set_once_of_an_incoming_file_that_is_not_accepted() {
    let uri = "file:///tmp/monkey.pdf".to_owned();
    for (name, mut state) in phases() {
        let effects = state.apply(Input::SetUri(uri.clone()));
        if name == "asked" {
            let defined = Effect::Signal(FileTransferSignal::UriDefined(uri.clone()));
            assert_eq!(effects, [defined, Effect::Done]);
            assert_eq!(state.uri(), uri);
        }
        let again = state.apply(Input::SetUri("file:///tmp/other".into()));
        assert_eq!(refusal(&again), Some("NotAvailable"), "{name}");
    }
    for bad in [String::new(), "x".repeat(MAX_URI + 1)] {
        let effects = receiving().apply(Input::SetUri(bad));
        assert_eq!(refusal(&effects), Some("InvalidArgument"));
    }
}

#[test]
fn what_is_stored_only_grows_and_never_beyond_what_was_handed_over() {
    let report = |offset, taken| Input::Stored { offset, taken };
    for (name, mut state) in phases() {
        let effects = state.apply(report(12, 2));
        match name {
            "open, receiving" | "completed, receiving" => {
                assert_eq!(effects, [Effect::Report(12), Effect::Done], "{name}");
                assert_eq!(state.stored(), 12);
            }
            _ => assert_eq!(refusal(&effects), Some("NotAvailable"), "{name}"),
        }
    }
    let mut state = phase("open, receiving");
    assert_eq!(state.stored(), 10, "what lies before the beginning");
    assert_eq!(
        refusal(&state.apply(report(13, 2))),
        Some("InvalidArgument")
    );
    assert_eq!(refusal(&state.apply(report(9, 2))), Some("InvalidArgument"));
    state.apply(report(12, 2));
    assert_eq!(
        state.apply(report(12, 50)),
        [Effect::Report(12), Effect::Done]
    );
    assert_eq!(
        refusal(&state.apply(report(11, 50))),
        Some("InvalidArgument")
    );
}

#[test]
fn one_application_is_attached_and_every_other_one_discarded() {
    for (name, mut state) in phases() {
        let effects = state.apply(Input::Accepted(Token(1)));
        if state.address().is_none() || state.is_over() {
            assert_eq!(effects, [Effect::Discard(Token(1))], "{name}");
            continue;
        }
        assert_eq!(
            effects,
            [Effect::Attach(Token(1)), Effect::StopListening],
            "{name}"
        );
        assert_eq!(
            state.apply(Input::Accepted(Token(2))),
            [Effect::Discard(Token(2))],
            "{name}"
        );
    }
}

#[test]
fn each_end_has_its_state_and_reason() {
    let cases = [
        (FlowEnd::Completed, Completed, NoReason),
        (FlowEnd::RemoteStopped(lost()), Cancelled, RemoteStopped),
        (FlowEnd::LocalError(lost()), Cancelled, LocalError),
        (FlowEnd::RemoteError(lost()), Cancelled, RemoteError),
        (FlowEnd::Stopped, Cancelled, LocalError),
    ];
    for (end, state, reason) in cases {
        for name in ["open, sending", "open, receiving"] {
            let mut transfer = phase(name);
            let effects = transfer.apply(Input::Ended(end.clone()));
            assert_eq!(effects.last(), Some(&said(state, reason)), "{name} {end:?}");
            assert!(effects.contains(&Effect::StopListening));
            // What came first holds.
            let later = Input::Ended(FlowEnd::LocalError(lost()));
            assert_eq!(transfer.apply(later), []);
            assert_eq!(transfer.transfer_state(), state);
        }
    }
    // A flow that never opened has not completed anything.
    let mut state = phase("opening, sending");
    state.apply(Input::Ended(FlowEnd::Completed));
    assert_eq!(
        (state.transfer_state(), state.reason()),
        (Cancelled, LocalError)
    );
}

#[test]
fn closing_cancels_what_is_not_over_and_finishes_once() {
    for (name, state) in phases() {
        for input in [Input::Close, Input::Stopped] {
            let mut state = state.clone();
            let over = state.is_over();
            let effects = state.apply(input);
            if over {
                assert_eq!(effects, [Effect::Finish], "{name}");
            } else {
                assert_eq!(
                    effects,
                    [
                        Effect::StopListening,
                        Effect::StopFlow(AbortReason::Stopped),
                        said(Cancelled, LocalStopped),
                        Effect::Finish,
                    ],
                    "{name}"
                );
            }
            assert!(state.is_finished());
            assert_eq!(state.apply(Input::Close), [], "{name}");
            assert_eq!(state.apply(Input::ContactGone), [], "{name}");
        }
    }
}

#[test]
fn what_is_abandoned_closes_unless_it_was_not_taken_yet() {
    for (name, state) in phases() {
        let (mut abandoned, mut closed) = (state.clone(), state);
        let effects = abandoned.apply(Input::Abandoned);
        if name == "asked" {
            assert_eq!(effects, []);
            assert_eq!(abandoned.transfer_state(), Pending);
        } else {
            assert_eq!(effects, closed.apply(Input::Close), "{name}");
        }
    }
    // It was being taken.
    let mut state = after(receiving(), &[accept(10)]);
    state.apply(Input::Abandoned);
    assert!(state.is_finished());
}

#[test]
fn a_contact_that_is_gone_and_a_sibling_that_failed_have_their_reasons() {
    let cases = [
        (Input::ContactGone, RemoteError),
        (Input::SiblingFailed("it broke".into()), LocalError),
    ];
    for (input, reason) in cases {
        for (name, mut state) in phases() {
            let over = state.is_over();
            let effects = state.apply(input.clone());
            if over {
                assert_eq!(effects, [], "{name}");
                continue;
            }
            assert_eq!(
                effects,
                [
                    Effect::StopListening,
                    Effect::StopFlow(AbortReason::Failed),
                    said(Cancelled, reason),
                ],
                "{name}"
            );
        }
    }
}

#[test]
fn a_successor_goes_on_where_the_record_says() {
    for (name, state) in phases() {
        assert_eq!(state.clone().recover(), state, "{name}");
    }
    // What was being bound died with its predecessor, and may be asked for again.
    let mut state = sending();
    state.apply(provide(None));
    let mut state = state.recover();
    assert_eq!(state.apply(bound()), [], "of nobody's");
    assert_eq!(state.apply(provide(None)), [bind()]);
}
