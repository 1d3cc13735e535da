//! A supervisor among fakes, as the scenarios of every type of channel begin and end.

use std::sync::Arc;

use super::{FakeSockets, FakeTree, Faults, Sim, StreamCounter};
use crate::{
    limits::Limits,
    model::{ContactHandle, OwnerId},
    ports::Parties,
    runtime::Clock,
    supervisor::{Supervisor, SupervisorConfig, SupervisorHandle},
};

/// See the module's head.
pub struct Stage {
    /// Runs it, and time.
    pub sim: Sim,
    /// Where channels appear.
    pub tree: Arc<FakeTree>,
    /// The streams that are open.
    pub counter: StreamCounter,
    /// Where applications connect.
    pub sockets: FakeSockets,
    /// Who is killed.
    pub faults: Faults,
    /// What the contact may use.
    pub limits: Limits,
    /// What is tested.
    pub supervisor: SupervisorHandle,
}

impl Stage {
    /// Whose the channels are.
    pub const OWNER: OwnerId = OwnerId(1);
    /// With whom they are.
    pub const CONTACT: ContactHandle = ContactHandle(7);

    /// A supervisor that runs as nothing else is said of.
    pub fn with(adjust: impl FnOnce(&mut SupervisorConfig)) -> Stage {
        let sim = Sim::new();
        let tree = FakeTree::new();
        let counter = StreamCounter::default();
        let faults = Faults::counting();
        let mut config = SupervisorConfig {
            faults: faults.clone(),
            ..SupervisorConfig::default()
        };
        adjust(&mut config);
        let supervisor = Supervisor::start(
            sim.spawner.clone(),
            sim.clock.clone(),
            Arc::new(tree.clone()),
            config,
        );
        Stage {
            tree,
            limits: Limits::new(&(sim.clock.clone() as Arc<dyn Clock>)),
            sockets: FakeSockets::new(&counter).with_faults(faults.clone()),
            faults,
            supervisor,
            counter,
            sim,
        }
    }

    /// Us and the contact, in a channel that we asked for or that the contact did.
    pub fn parties(&self, requested: bool) -> Parties {
        let (us, them) = (
            (ContactHandle(1), "self"),
            (Self::CONTACT, "juliet@capulet"),
        );
        let initiator = if requested { us } else { them };
        Parties {
            target: them.0,
            target_id: them.1.to_owned(),
            initiator: initiator.0,
            initiator_id: initiator.1.to_owned(),
            requested,
        }
    }

    /// Shuts down, and checks that no task, object or listening socket is left. Streams may be, in the test's
    /// hands.
    ///
    /// # Panics
    /// When something is left, or the tree saw what makes no sense.
    pub fn shut_down(&self) {
        self.sim.run(self.supervisor.shutdown());
        self.sim.settle();
        assert_eq!(self.sim.spawner.running(), 0, "tasks are left");
        assert_eq!(self.tree.present(), [], "objects are left");
        assert_eq!(self.sockets.listeners(), 0, "listening sockets are left");
        assert_eq!(self.tree.nonsense(), Vec::<String>::new());
    }
}
