//! Random walks: a transfer, and a model of the channel supervisor, the flow, the contact and the
//! clients around it, that do possible things in any order. At times the transfer dies and its
//! successor goes on from the last record.

use proptest::prelude::*;

use super::*;

/// What may happen next.
#[derive(Clone, Debug)]
enum Step {
    Provide(Option<u64>),
    Accept(u64),
    BindFails,
    Agree(u64),
    Open(bool),
    Connect,
    Flow(u64),
    SetUri,
    Store(u64),
    End(FlowEnd),
    Close,
    Stopped,
    ContactGone,
    SiblingFailed,
    Die,
}

fn step() -> impl Strategy<Value = Step> {
    let end = prop_oneof![
        3 => Just(FlowEnd::Completed),
        1 => Just(FlowEnd::RemoteStopped(lost())),
        1 => Just(FlowEnd::LocalError(lost())),
        1 => Just(FlowEnd::RemoteError(lost())),
    ];
    let offset = || prop_oneof![Just(0), Just(40), Just(SIZE), Just(SIZE + 1)];
    prop_oneof![
        4 => prop_oneof![Just(None), offset().prop_map(Some)].prop_map(Step::Provide),
        4 => offset().prop_map(Step::Accept),
        1 => Just(Step::BindFails),
        4 => offset().prop_map(Step::Agree),
        6 => any::<bool>().prop_map(Step::Open),
        5 => Just(Step::Connect),
        4 => (0..30_u64).prop_map(Step::Flow),
        2 => Just(Step::SetUri),
        4 => (0..=SIZE + 10).prop_map(Step::Store),
        2 => end.prop_map(Step::End),
        1 => Just(Step::Close),
        1 => Just(Step::Stopped),
        1 => Just(Step::ContactGone),
        1 => Just(Step::SiblingFailed),
        3 => Just(Step::Die),
    ]
}

/// The flow, as far as the transfer sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flow {
    Agreeing,
    Waiting,
    Opening(u64),
    Open,
    Over,
}

/// Everything around the transfer, and what it has heard.
struct Model {
    state: State,
    way: Way,
    bind_fails: bool,
    flow: Flow,
    listening: bool,
    attached: usize,
    next_token: u64,
    taken: u64,
    wanted: Option<u64>,
    answers: usize,
    asked: usize,
    stopped: bool,
    finished: bool,
    signals: Vec<FileTransferSignal>,
}

impl Model {
    fn new(way: Way, has_ranges: bool) -> Self {
        let state = State::new(&description(way == Way::Sending, has_ranges), way);
        Model {
            state,
            way,
            bind_fails: false,
            flow: Flow::Agreeing,
            listening: false,
            attached: 0,
            next_token: 0,
            taken: 0,
            wanted: None,
            answers: 0,
            asked: 0,
            stopped: false,
            finished: false,
            signals: Vec::new(),
        }
    }

    fn take(&mut self, step: Step) {
        let (kind, access) = (AddressType::Unix, AccessRule::Localhost);
        let input = match step {
            Step::Provide(from) => Input::Provide { kind, access, from },
            Step::Accept(offset) => Input::Accept {
                kind,
                access,
                from: at(offset),
                stores: offset % 2 == 0,
            },
            Step::BindFails => {
                self.bind_fails = true;
                return;
            }
            Step::Agree(offset) if self.flow == Flow::Agreeing && self.way == Way::Sending => {
                self.flow = Flow::Waiting;
                self.wanted = Some(offset);
                Input::Agreed(at(offset))
            }
            Step::Open(at_zero) => {
                let Flow::Opening(offset) = self.flow else {
                    return;
                };
                self.flow = Flow::Open;
                opened(if at_zero { 0 } else { offset })
            }
            Step::Connect if self.listening => {
                self.next_token += 1;
                Input::Accepted(Token(self.next_token))
            }
            Step::Flow(bytes) if self.flow == Flow::Open => {
                self.taken += bytes;
                return;
            }
            Step::SetUri => Input::SetUri("file:///tmp/x".into()),
            Step::Store(offset) => Input::Stored {
                offset,
                taken: self.taken,
            },
            Step::End(FlowEnd::Completed) if self.flow != Flow::Open => return,
            Step::End(end) if self.flow != Flow::Over => {
                self.flow = Flow::Over;
                Input::Ended(end)
            }
            Step::Close => Input::Close,
            Step::Stopped => Input::Stopped,
            Step::ContactGone => Input::ContactGone,
            Step::SiblingFailed => Input::SiblingFailed("the listener failed".into()),
            Step::Die => {
                self.state = self.state.clone().recover();
                return;
            }
            // Impossible just now.
            _ => return,
        };
        let is_request = matches!(
            input,
            Input::Provide { .. }
                | Input::Accept { .. }
                | Input::SetUri(_)
                | Input::Stored { .. }
                | Input::IsVerified(_)
        );
        self.asked += usize::from(is_request);
        self.feed(input);
        assert_eq!(self.answers, self.asked, "each request has one answer");
    }

    fn feed(&mut self, input: Input) {
        // A transfer that has finished is gone.
        if self.finished {
            self.answers = self.asked;
            return;
        }
        for effect in self.state.apply(input) {
            assert!(!self.finished, "nothing follows the end");
            match effect {
                Effect::Signal(signal) => self.signals.push(signal),
                Effect::Refuse(_) | Effect::Done | Effect::Say(_) => self.answers += 1,
                Effect::Bind(..) => {
                    let bound = if std::mem::take(&mut self.bind_fails) {
                        Err(Error::ResourceUnavailable("no descriptor".into()))
                    } else {
                        Ok(address())
                    };
                    self.feed(Input::Bound(bound));
                }
                Effect::Listen(_) => {
                    assert!(!self.listening && self.attached == 0);
                    self.listening = true;
                    self.answers += 1;
                }
                Effect::Start(from) => {
                    match (self.way, self.flow) {
                        (Way::Sending, Flow::Waiting) => {
                            assert!(from.offset == 0 || Some(from.offset) == self.wanted);
                        }
                        (Way::Receiving, Flow::Agreeing) | (_, Flow::Over) => {}
                        other => panic!("a start while {other:?}"),
                    }
                    assert!(from.offset <= SIZE);
                    if self.flow != Flow::Over {
                        self.flow = Flow::Opening(from.offset);
                    }
                }
                Effect::Flow => assert!(matches!(self.flow, Flow::Open | Flow::Over)),
                Effect::Attach(_) => {
                    self.attached += 1;
                    assert_eq!(self.attached, 1, "one application");
                }
                Effect::Discard(_) => {}
                Effect::Report(offset) => {
                    let initial = self.state.initial_offset().expect("it has begun");
                    assert!(offset <= initial + self.taken);
                }
                Effect::StopListening => self.listening = false,
                Effect::StopFlow(_) => {
                    assert!(!self.stopped, "it is stopped once");
                    self.stopped = true;
                    self.flow = Flow::Over;
                }
                Effect::Finish => self.finished = true,
            }
        }
    }

    fn check(&self) {
        use FileTransferState::{Cancelled, Open, Pending};
        let mut last = Pending;
        let mut offset = None;
        for signal in &self.signals {
            match signal {
                FileTransferSignal::StateChanged(state, reason) => {
                    assert!(*state > last, "states go on: {:?}", self.signals);
                    let has_reason = *reason != FileTransferReason::None;
                    assert_eq!(has_reason, *state == Cancelled);
                    assert!(*state != Open || offset.is_some());
                    last = *state;
                }
                FileTransferSignal::InitialOffsetDefined(at) => {
                    assert_eq!(offset.replace(*at), None);
                }
                FileTransferSignal::AskedDefined(_) | FileTransferSignal::UriDefined(_) => {
                    assert_eq!(last, Pending);
                }
                other => panic!("{other:?} is not the state's to say"),
            }
        }
        assert_eq!(last, self.state.transfer_state(), "each change is said");
        assert_eq!(offset, self.state.initial_offset());
        let gone = self.state.is_over();
        assert!(!gone || !self.listening, "nobody may come any more");
        assert!(!gone || self.flow == Flow::Over, "no flow is left");
        assert!(!self.finished || gone, "what is finished is over");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_order_keeps_the_promises(
        sends in any::<bool>(),
        has_ranges in any::<bool>(),
        steps in prop::collection::vec(step(), 0..40),
    ) {
        let way = if sends { Way::Sending } else { Way::Receiving };
        let mut model = Model::new(way, has_ranges);
        for step in steps {
            model.take(step);
            model.check();
        }
        model.take(Step::Close);
        model.check();
        prop_assert!(model.finished);
    }
}
