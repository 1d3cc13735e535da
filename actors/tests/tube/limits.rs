//! What a contact may use: connections of each tube, bytes a second of all its tubes, changed while
//! they are open.

use std::{num::NonZeroU64, time::Duration};

use actors::{
    limits::Caps,
    testing::{FakeStream, IncomingOutcome},
};
use futures_lite::{AsyncReadExt as _, AsyncWriteExt as _, future::zip};

use crate::support::{World, close, name, service_address};

fn connections(world: &World, most: usize) {
    world.limits.set(Caps {
        connections: Some(most),
        bytes_per_second: None,
    });
}

#[test]
fn an_application_waits_until_more_connections_are_allowed() {
    let world = World::new();
    connections(&world, 1);
    world.sim.run(async {
        let (channel, address) = world.accepted().await;
        let connect = || world.sockets.connect(&address).unwrap();
        let applications = [connect(), connect(), connect()];
        let _first = world.connector.opened().await;
        world.sim.clock.advance(Duration::from_secs(10));
        assert_eq!(world.connector.asked().len(), 1);
        connections(&world, 2);
        let _second = world.connector.opened().await;
        assert_eq!(channel.view.get().connections, 2);
        // Fewer concern new ones; those that are open go on.
        connections(&world, 1);
        assert_eq!(channel.view.get().connections, 2);
        drop(applications);
    });
    world.finish();
}

#[test]
fn a_contact_beyond_its_connections_is_refused() {
    let world = World::new();
    connections(&world, 1);
    world.sim.run(async {
        let _service = world.sockets.serve(service_address());
        let (one, other) = (world.offered().await, world.offered().await);
        let _first = world.connected(&one, 1).await;
        let second = world.incoming(&one, 2, None).await.wait().await;
        assert!(
            matches!(&second, Ok(IncomingOutcome::Refused(why)) if name(why) == "ResourceUnavailable"),
            "{second:?}"
        );
        // Each tube has its own.
        let _third = world.connected(&other, 3).await;
    });
    world.finish();
}

#[test]
fn tubes_share_their_bytes_per_second_and_close_at_once_all_the_same() {
    const RATE: u64 = 50 * 1024;
    let world = World::new();
    world.limits.set(Caps {
        connections: None,
        bytes_per_second: NonZeroU64::new(RATE),
    });
    world.sim.run(async {
        let service = world.sockets.serve(service_address());
        let (one, other) = (world.offered().await, world.offered().await);
        let mut contacts = [
            world.connected(&one, 1).await,
            world.connected(&other, 2).await,
        ];
        let (mut first, mut second) = (service.accept().await, service.accept().await);
        use actors::runtime::Clock as _;
        let before = world.sim.clock.now();
        let [here, there] = &mut contacts;
        let fetch = async |from: &mut FakeStream, to: &mut FakeStream| {
            let (bytes, mut read) = ([1; 20 * 1024], [0; 20 * 1024]);
            let both = zip(from.write_all(&bytes), to.read_exact(&mut read)).await;
            both.0.and(both.1).unwrap();
        };
        zip(fetch(&mut first, here), fetch(&mut second, there)).await;
        // 40 KiB at 50 KiB a second, less what may come at once.
        let took = world.sim.clock.now() - before;
        assert!(
            (Duration::from_millis(650)..Duration::from_millis(850)).contains(&took),
            "{took:?}"
        );
        // With something waiting to be carried.
        first.write_all(&[1; 16]).await.unwrap();
        let before = world.sim.clock.now();
        close(&one).await;
        assert!(world.sim.clock.now() - before < Duration::from_secs(4));
        drop((second, contacts));
    });
    world.finish();
}
