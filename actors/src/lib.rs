//! Supervised actors for tubes and socket endpoints (placeholder head; the floors and the
//! supervision tree are described here).

pub mod endpoint;
pub mod model;
pub mod ports;
pub mod relay;
pub mod runtime;
pub mod stream_tube;
pub mod supervisor;
#[cfg(feature = "testing")]
pub mod testing;
