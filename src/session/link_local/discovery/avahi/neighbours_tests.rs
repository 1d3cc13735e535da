//! Floods, turns and bounds.

use proptest::prelude::*;

use super::*;

const NOW: Time = Time::from_secs(100);

fn place(name: &str) -> Place {
    Place {
        name: name.into(),
        interface: 2,
        protocol: 0,
    }
}

fn text(key: Option<u8>) -> PresenceText {
    PresenceText {
        key: key.map(|key| KeyId([key; 32])),
        ..PresenceText::default()
    }
}

/// Key 1, under the name "bob".
fn bob_pinned() -> BTreeMap<KeyId, String> {
    [(KeyId([1; 32]), "bob".into())].into()
}

/// A daemon that makes resolvers as asked.
#[derive(Default)]
struct World {
    neighbours: Neighbours,
    calls: VecDeque<Call>,
    made: usize,
    /// Path by name.
    resolvers: BTreeMap<String, String>,
    most: usize,
}

impl World {
    /// Carries out all calls that are due.
    fn settle(&mut self, now: Time) {
        self.neighbours.next_calls(now, &mut self.calls);
        while let Some(call) = self.calls.pop_front() {
            match call {
                Call::PrepareResolver(place) => {
                    self.made += 1;
                    let path = format!("/resolver{}", self.made);
                    self.resolvers.insert(place.name.clone(), path.clone());
                    self.most = self.most.max(self.resolvers.len());
                    let made = Prepared::Made(path);
                    self.neighbours.prepared(&place, made, &mut self.calls);
                }
                Call::FreeResolver(path) => self.resolvers.retain(|_, each| *each != path),
                Call::StartResolver(_) => {}
                other => panic!("{other:?}"),
            }
            if self.calls.is_empty() {
                self.neighbours.next_calls(now, &mut self.calls);
            }
        }
    }

    fn found(&mut self, name: &str, key: Option<u8>) -> Option<News> {
        let path = self.resolvers.get(name)?.clone();
        self.neighbours.found(&path, None, text(key))
    }
}

#[test]
fn an_instance_is_as_long_as_it_is_heard_anywhere() {
    let mut world = World::default();
    let over_ipv6 = Place {
        protocol: 1,
        ..place("bob")
    };
    let mut paths = Vec::new();
    for (place, address) in [
        (place("bob"), "192.0.2.7:5298"),
        (over_ipv6.clone(), "[2001:db8::7]:5298"),
    ] {
        world.neighbours.appeared(place);
        world.settle(NOW);
        let path = world.resolvers["bob"].clone();
        let news = world
            .neighbours
            .found(&path, address.parse().ok(), text(None));
        paths.push(news);
    }
    let Some(News::Seen(both)) = paths.pop().flatten() else {
        panic!("seen");
    };
    assert_eq!(both.addresses.len(), 2);
    let calls = &mut VecDeque::new();
    let Some(News::Seen(less)) = world.neighbours.removed(&place("bob"), calls) else {
        panic!("it is heard elsewhere");
    };
    assert_eq!(less.addresses, ["[2001:db8::7]:5298".parse().unwrap()]);
    let gone = world.neighbours.removed(&over_ipv6, calls);
    assert_eq!(gone, Some(News::Gone("bob".into())));
    assert_eq!(world.neighbours.removed(&over_ipv6, calls), None);
    assert_eq!(calls.len(), 2, "both resolvers are freed");
}

#[test]
fn a_flood_is_bounded_and_a_pinned_contact_keeps_its_resolver() {
    let mut world = World::default();
    world.neighbours.set_pinned(bob_pinned());
    world.neighbours.appeared(place("bob"));
    world.settle(NOW);
    world.found("bob", Some(1));
    for n in 0..2 * MAX_PLACES {
        let name = format!("ghost {n}");
        world.neighbours.appeared(place(&name));
        world.settle(NOW);
        // Half of them answer.
        if n % 2 == 0 {
            world.found(&name, None);
        }
    }
    assert_eq!(world.neighbours.places, MAX_PLACES);
    assert!(world.most <= MAX_WATCHED, "{}", world.most);
    assert!(world.neighbours.unanswered <= MAX_UNANSWERED);
    assert!(world.found("bob", Some(1)).is_some(), "it is watched still");
    // One who left and comes back finds a place all the same.
    world.neighbours.removed(&place("bob"), &mut world.calls);
    world.neighbours.appeared(place("ghost"));
    world.neighbours.appeared(place("bob"));
    assert_eq!(world.neighbours.queue.front(), Some(&place("bob")));
}

#[test]
fn forged_claims_that_come_first_do_not_push_out_the_pinned_name() {
    let mut world = World::default();
    world.neighbours.set_pinned(bob_pinned());
    for n in 0..2 * MAX_CLAIMED {
        let name = format!("forged {n}");
        world.neighbours.appeared(place(&name));
        world.settle(NOW);
        world.found(&name, Some(1));
    }
    for n in 0..2 * MAX_PLACES {
        if n == MAX_PLACES {
            // All is taken.
            assert_eq!(world.neighbours.places, MAX_PLACES);
            world.neighbours.appeared(place("bob"));
            world.settle(NOW);
            assert!(world.found("bob", Some(1)).is_some(), "it has a resolver");
        }
        let name = format!("ghost {n}");
        world.neighbours.appeared(place(&name));
        world.settle(NOW);
        world.found(&name, None);
    }
    assert_eq!(world.neighbours.claimed.len(), MAX_CLAIMED);
    assert!(world.most <= MAX_WATCHED, "{}", world.most);
    assert!(world.found("bob", Some(1)).is_some(), "it has it still");
}

#[test]
fn claims_give_way_to_the_pinned_names_and_count_while_they_are_made() {
    let mut world = World::default();
    world.neighbours.most = MAX_CLAIMED;
    world.neighbours.set_pinned(bob_pinned());
    for name in ["forged a", "forged b"] {
        world.neighbours.appeared(place(name));
        world.settle(NOW);
        world.found(name, Some(1));
    }
    world.neighbours.appeared(place("ghost"));
    world.settle(NOW);
    assert!(!world.resolvers.contains_key("ghost"), "both are favoured");
    world.neighbours.appeared(place("bob"));
    world.settle(NOW);
    assert!(world.found("bob", Some(1)).is_some(), "bob more so");
    assert_eq!(world.most, MAX_CLAIMED);
    // One that claims it no longer, one that goes.
    world.found("forged b", None);
    let claimed = |world: &World| world.neighbours.claimed.keys().cloned().collect::<Vec<_>>();
    assert_eq!(claimed(&world), ["forged a"]);
    world
        .neighbours
        .removed(&place("forged a"), &mut world.calls);
    assert!(claimed(&world).is_empty());
    world.settle(NOW);
    assert!(world.resolvers.contains_key("ghost"), "it has its turn");
}

#[test]
fn whoever_does_not_answer_is_looked_at_again_in_turn() {
    let mut world = World::default();
    world.neighbours.appeared(place("bob"));
    world.settle(NOW);
    let path = world.resolvers["bob"].clone();
    world.neighbours.not_found(&path, &mut world.calls);
    world.settle(NOW);
    assert!(world.resolvers.is_empty());
    let again = world.neighbours.next_deadline().unwrap();
    assert_eq!(again, NOW + REVISIT);
    world.settle(again);
    assert!(world.found("bob", None).is_some());
    assert_eq!(world.neighbours.next_deadline(), None);
}

#[test]
fn a_pinned_name_that_does_not_answer_is_asked_again_before_others_and_starves_nobody() {
    let mut world = World::default();
    world.neighbours.set_pinned(bob_pinned());
    let ghosts: Vec<String> = (0..100).map(|n| format!("ghost {n}")).collect();
    let nobody_answers = |world: &mut World| {
        let paths: Vec<String> = world.resolvers.values().cloned().collect();
        for path in &paths {
            world.neighbours.not_found(path, &mut world.calls);
        }
    };
    for name in ghosts.iter().map(String::as_str).chain(["bob"]) {
        world.neighbours.appeared(place(name));
    }
    world.settle(NOW);
    nobody_answers(&mut world);
    world.settle(NOW);
    assert!(world.resolvers.is_empty(), "all rest, and bob the last");
    let mut asked = BTreeSet::new();
    for _ in &ghosts {
        let now = world.neighbours.next_deadline().unwrap();
        world.settle(now);
        assert!(world.resolvers.contains_key("bob"));
        assert_eq!(world.resolvers.len(), 2, "one besides him");
        asked.extend(world.resolvers.keys().cloned());
        nobody_answers(&mut world);
        world.settle(now);
    }
    assert_eq!(asked.len(), ghosts.len() + 1, "everybody had a turn");
}

#[test]
fn a_daemon_that_allows_less_is_asked_for_less() {
    let mut world = World::default();
    for name in ["a", "b", "c"] {
        world.neighbours.appeared(place(name));
    }
    world.neighbours.next_calls(NOW, &mut world.calls);
    let calls = std::mem::take(&mut world.calls);
    for (n, call) in calls.into_iter().enumerate() {
        let Call::PrepareResolver(place) = call else {
            panic!("{call:?}");
        };
        let made = match n {
            0 => Prepared::Made("/resolver0".into()),
            1 => Prepared::TooMany,
            _ => Prepared::Refused,
        };
        world.neighbours.prepared(&place, made, &mut world.calls);
    }
    assert_eq!(world.neighbours.most, 1);
    assert_eq!(world.neighbours.resting.len(), 2);
    // The one that there is takes turns, once it has answered.
    world.neighbours.found("/resolver0", None, text(None));
    world.settle(NOW + REVISIT);
    world.settle(NOW + 2 * REVISIT);
    assert_eq!(world.most, 1);
}

#[derive(Clone, Debug)]
enum Step {
    Appeared(u8),
    Removed(u8),
    Found(u8, Option<u8>),
    NotFound(u8),
    Later,
    Lost,
}

proptest! {
    #[test]
    fn whatever_happens_the_counts_are_right(steps in proptest::collection::vec(prop_oneof![
        (0..6_u8).prop_map(Step::Appeared),
        (0..6_u8).prop_map(Step::Removed),
        (0..6_u8, proptest::option::of(0..3_u8)).prop_map(|(n, key)| Step::Found(n, key)),
        (0..6_u8).prop_map(Step::NotFound),
        Just(Step::Later),
        Just(Step::Lost),
    ], 0..80)) {
        let mut world = World::default();
        world.neighbours.set_pinned(bob_pinned());
        let mut now = NOW;
        for step in steps {
            match step {
                Step::Appeared(n) => world.neighbours.appeared(place(&n.to_string())),
                Step::Removed(n) => {
                    world.neighbours.removed(&place(&n.to_string()), &mut world.calls);
                }
                Step::Found(n, key) => { world.found(&n.to_string(), key); }
                Step::NotFound(n) => {
                    if let Some(path) = world.resolvers.get(&n.to_string()).cloned() {
                        world.neighbours.not_found(&path, &mut world.calls);
                    }
                }
                Step::Later => now += REVISIT,
                Step::Lost => {
                    world.neighbours.lost();
                    world.resolvers.clear();
                    world.calls.clear();
                }
            }
            world.settle(now);
            let all = || world.neighbours.instances.values().flat_map(|each| each.places.values());
            let unanswered = all().filter(|heard| {
                matches!(heard.progress, Progress::Watched { answered: false, .. })
            });
            prop_assert_eq!(world.neighbours.unanswered, unanswered.count());
            prop_assert_eq!(world.neighbours.places, all().count());
            prop_assert_eq!(world.neighbours.preparing, 0);
            let claims = |(name, key): (&String, &KeyId)| {
                let instance = world.neighbours.instances.get(name);
                instance.is_some_and(|each| each.text.key == Some(*key))
            };
            prop_assert!(world.neighbours.claimed.iter().all(claims));
            prop_assert!(world.neighbours.claimed.len() <= MAX_CLAIMED);
            let paths: BTreeSet<_> = world.neighbours.paths.keys().collect();
            prop_assert_eq!(paths, world.resolvers.values().collect::<BTreeSet<_>>());
            let resting = all().filter(|heard| heard.progress == Progress::Resting);
            prop_assert_eq!(world.neighbours.resting.len(), resting.count());
        }
    }
}
