//! What ends at one side ends at the other, and whoever used it hears so.

use smol::future::block_on;
use support::PATIENCE;

use crate::halves::{Halves, NAME};

#[test]
fn when_the_sharing_ends_the_small_bus_does_and_its_clients_hear_it() {
    let mut halves = Halves::start(|filter| filter);
    halves.wait_for_service();
    let mut monitor = halves.program("gdbus", &["monitor", "--session", "--dest", NAME]);
    monitor.wait_for_line(PATIENCE, |line| line.contains("is owned by").then_some(()));
    block_on(halves.shared.take().expect("shared").cancel());
    let served = block_on(halves.served.take().expect("served"));
    assert!(matches!(served, Ok(Ok(()))), "{served:?}");
    // GLib ends a program whose bus has gone.
    monitor.wait(PATIENCE);
    let (went, said) = halves.busctl(&["list"]);
    assert!(!went, "{said}");
}

#[test]
fn when_the_small_bus_ends_the_sharing_does() {
    let mut halves = Halves::start(|filter| filter);
    halves.wait_for_service();
    halves.stopper.take().expect("a small bus").stop();
    let served = block_on(halves.served.take().expect("served"));
    assert!(matches!(served, Ok(Ok(()))), "{served:?}");
    let shared = block_on(halves.shared.take().expect("shared"));
    assert!(matches!(shared, Ok(Ok(()))), "{shared:?}");
}
