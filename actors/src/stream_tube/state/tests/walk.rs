//! Random walks: a tube, and a model of the channel supervisor, the relays, the contact and the
//! clients around it, that do possible things in any order. At times the tube dies and its
//! successor goes on from the last record.

use super::*;

/// What may happen next; numbers choose among what is there.
#[derive(Clone, Debug)]
enum Step {
    Offer(bool),
    OfferAnswered(bool),
    Accept,
    BindFails,
    Incoming(bool),
    DialDone(bool),
    Connect,
    End(usize, ConnectionEnd),
    Close,
    Stopped,
    RemoteClosed,
    ContactGone,
    Overdue,
    SiblingFailed,
    Die,
}

fn step() -> impl Strategy<Value = Step> {
    let end = prop_oneof![
        Just(ConnectionEnd::Finished),
        Just(ConnectionEnd::LocalReset),
        Just(ConnectionEnd::RemoteReset),
        Just(ConnectionEnd::RemoteLost("lost".into())),
        Just(ConnectionEnd::Refused(Error::Offline("gone".into()))),
        Just(ConnectionEnd::Failed("panicked".into())),
    ];
    prop_oneof![
        3 => any::<bool>().prop_map(Step::Offer),
        3 => any::<bool>().prop_map(Step::OfferAnswered),
        3 => Just(Step::Accept),
        1 => Just(Step::BindFails),
        6 => any::<bool>().prop_map(Step::Incoming),
        6 => any::<bool>().prop_map(Step::DialDone),
        8 => Just(Step::Connect),
        8 => (any::<usize>(), end).prop_map(|(which, end)| Step::End(which, end)),
        1 => Just(Step::Close),
        1 => Just(Step::Stopped),
        1 => Just(Step::RemoteClosed),
        1 => Just(Step::ContactGone),
        2 => Just(Step::Overdue),
        1 => Just(Step::SiblingFailed),
        3 => Just(Step::Die),
    ]
}

/// Everything around the tube, and what it has heard.
struct Model {
    state: State,
    bind_fails: bool,
    offer_pending: bool,
    listening: bool,
    dials: usize,
    next_token: u64,
    relays: Vec<ConnectionId>,
    cut: bool,
    told: bool,
    farewells: usize,
    finished: bool,
    signals: Vec<StreamTubeSignal>,
}

impl Model {
    fn new(requested: bool) -> Self {
        Model {
            state: State::new(&description(requested)),
            bind_fails: false,
            offer_pending: false,
            listening: false,
            dials: 0,
            next_token: 0,
            relays: Vec::new(),
            cut: false,
            told: false,
            farewells: 0,
            finished: false,
            signals: Vec::new(),
        }
    }

    fn token(&mut self) -> Token {
        self.next_token += 1;
        Token(self.next_token)
    }

    fn take(&mut self, step: Step) {
        let input = match step {
            Step::Offer(good) => Input::Offer {
                target: target(),
                parameters: parameters(),
                check: if good {
                    Ok(())
                } else {
                    Err(Error::InvalidArgument("bad".into()))
                },
            },
            Step::OfferAnswered(sent) if self.offer_pending => Input::OfferSent(if sent {
                Ok(())
            } else {
                Err(Error::Offline("gone".into()))
            }),
            Step::Accept => Input::Accept {
                kind: AddressType::Unix,
                access: AccessRule::Localhost,
            },
            Step::BindFails => {
                self.bind_fails = true;
                return;
            }
            Step::Incoming(room) => Input::Incoming { room },
            Step::DialDone(ok) if self.dials > 0 => {
                self.dials -= 1;
                if !ok {
                    return;
                }
                let token = self.token();
                Input::Dialled {
                    token,
                    parameter: ConnectionParameter::Nothing,
                }
            }
            Step::Connect if self.listening => Input::Accepted(self.token()),
            Step::End(which, end) if !self.relays.is_empty() => {
                let id = self.relays.remove(which % self.relays.len());
                Input::Ended(id, end)
            }
            Step::Close => Input::Close,
            Step::Stopped => Input::Stopped,
            Step::RemoteClosed => Input::RemoteClosed,
            Step::ContactGone => Input::ContactGone,
            Step::Overdue if self.farewells > 0 => {
                self.told = true;
                Input::Overdue
            }
            Step::SiblingFailed => Input::SiblingFailed("the listener failed".into()),
            Step::Die => return self.die(),
            // Impossible just now.
            _ => return,
        };
        self.feed(input);
    }

    /// The tube dies with its offer; the successor is told again what still holds.
    fn die(&mut self) {
        self.state = self.state.clone().recover();
        self.offer_pending = false;
        if self.told {
            self.feed(Input::Overdue);
        }
    }

    fn feed(&mut self, input: Input) {
        if self.finished {
            return;
        }
        let mut seen = self.state.tube_state();
        let mut effects = std::collections::VecDeque::from(self.state.apply(input));
        while let Some(effect) = effects.pop_front() {
            assert!(!self.finished, "nothing after the end, but {effect:?}");
            match effect {
                Effect::Signal(signal) => {
                    if let StreamTubeSignal::TubeStateChanged(state) = &signal {
                        assert_ne!(*state, seen, "a change that is none");
                        seen = *state;
                    }
                    self.signals.push(signal);
                }
                Effect::SendOffer(_) => {
                    assert!(!self.offer_pending, "one offer at a time");
                    self.offer_pending = true;
                }
                Effect::AbandonOffer(_) | Effect::Offered(_) => {
                    assert!(self.offer_pending, "an answer without a question");
                    self.offer_pending = false;
                }
                Effect::Bind(..) => {
                    let result = if std::mem::take(&mut self.bind_fails) {
                        Err(Error::ResourceUnavailable("none".into()))
                    } else {
                        Ok(bound())
                    };
                    effects.extend(self.state.apply(Input::Bound(result)));
                }
                Effect::Listen(_) => {
                    assert!(!self.listening, "one listener");
                    self.listening = true;
                }
                Effect::Dial(to) => {
                    assert_eq!(to, target());
                    self.dials += 1;
                }
                Effect::Relay(_, id) => {
                    assert!(!self.cut, "no connection after the cut");
                    self.relays.push(id);
                }
                Effect::StopOpening => {
                    self.listening = false;
                    self.dials = 0;
                }
                Effect::Farewell => self.farewells += 1,
                Effect::Cut => self.cut = true,
                Effect::Finish => {
                    assert!(self.relays.is_empty(), "finished with open connections");
                    self.finished = true;
                }
                Effect::Refuse(_) | Effect::RefuseIncoming(_) | Effect::Discard(_) => {}
            }
        }
        assert_eq!(
            seen,
            self.state.tube_state(),
            "each change of state is announced"
        );
        assert!(self.farewells <= 1, "one farewell");
        let mut open = self.relays.clone();
        open.sort();
        assert!(
            self.state.connections().iter().eq(open.iter()),
            "the record knows the open connections"
        );
    }

    /// Lets everything that is under way come to an end: afterwards the tube is closed.
    fn finish(&mut self) {
        self.feed(Input::Close);
        if self.farewells > 0 {
            self.told = true;
            self.feed(Input::Overdue);
        }
        assert!(self.finished || self.cut, "open connections are cut");
        while let Some(id) = self.relays.pop() {
            self.feed(Input::Ended(id, ConnectionEnd::Stopped));
        }
        assert!(self.finished);
        assert!(!self.offer_pending, "an offer nobody answers");
        assert!(!self.listening && self.dials == 0);
        check_signals(&self.signals);
    }
}

fn check_signals(signals: &[StreamTubeSignal]) {
    let mut open = BTreeSet::new();
    let mut last_id = 0;
    let mut opened = false;
    for signal in signals {
        match signal {
            StreamTubeSignal::NewLocalConnection(id)
            | StreamTubeSignal::NewRemoteConnection { id, .. } => {
                assert!(opened, "a connection before the tube opened");
                assert!(id.0 > last_id, "ids are given in order and once");
                last_id = id.0;
                assert!(open.insert(*id));
            }
            StreamTubeSignal::ConnectionClosed { id, why } => {
                assert!(open.remove(id), "closed exactly once, after it opened");
                assert!(matches!(
                    why,
                    Error::Cancelled(_) | Error::ConnectionLost(_) | Error::ConnectionRefused(_)
                ));
            }
            StreamTubeSignal::TubeStateChanged(state) => opened |= *state == TubeState::Open,
        }
    }
    assert!(open.is_empty(), "each opened connection closes");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, ..ProptestConfig::default() })]

    #[test]
    fn promises_hold_whatever_happens(
        requested in any::<bool>(),
        steps in prop::collection::vec(step(), 0..80),
    ) {
        let mut model = Model::new(requested);
        for step in steps {
            model.take(step);
        }
        model.finish();
    }
}
