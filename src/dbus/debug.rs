//! `Debug`, at the path where viewers of messages look for it, and `Debug.Interface.Pneuma.Levels1`, our
//! own: what the service says while it works, and how much.

use actors::runtime::Spawner;
use zbus::object_server::SignalEmitter;

use super::{
    error::{Result, answered, read},
    outlet::Outlets,
};
use crate::{
    log::{Levels, Log, LogMessage},
    names::DEBUG_PATH,
};

/// `Debug`.
#[derive(Debug)]
pub struct Debug {
    log: Log,
}

impl Debug {
    /// Of what is logged there.
    pub fn new(log: Log) -> Self {
        Debug { log }
    }
}

/// `Debug_Message`
type Message = (f64, String, u32, String);

fn message(message: LogMessage) -> Message {
    (message.time, message.domain, message.level, message.text)
}

#[zbus::interface(name = "org.freedesktop.Telepathy.Debug", introspection_docs = false)]
impl Debug {
    #[zbus(property(emits_changed_signal = "false"))]
    fn enabled(&self) -> Result<bool> {
        read("Enabled", || self.log.is_enabled())
    }

    #[zbus(property)]
    fn set_enabled(&self, enabled: bool) {
        self.log.enable(enabled);
    }

    #[zbus(out_args("Messages"))]
    async fn get_messages(&self) -> Result<Vec<Message>> {
        answered("GetMessages", async {
            Ok(self.log.messages().into_iter().map(message).collect())
        })
        .await
    }

    #[zbus(signal)]
    async fn new_debug_message(
        emitter: &SignalEmitter<'_>,
        time: f64,
        domain: &str,
        level: u32,
        message: &str,
    ) -> zbus::Result<()>;
}

/// `Debug.Interface.Pneuma.Levels1`.
#[derive(Debug)]
pub struct LogLevels {
    log: Log,
}

impl LogLevels {
    /// Of what is logged there.
    pub fn new(log: Log) -> Self {
        LogLevels { log }
    }
}

#[zbus::interface(
    name = "org.freedesktop.Telepathy.Debug.Interface.Pneuma.Levels1",
    introspection_docs = false
)]
impl LogLevels {
    #[zbus(property(emits_changed_signal = "false"))]
    fn levels(&self) -> Result<String> {
        read("Levels", || self.log.levels().to_string())
    }

    #[zbus(property)]
    fn set_levels(&self, levels: String) -> zbus::fdo::Result<()> {
        let levels: Levels = levels.parse().map_err(|error: actors::model::Error| {
            zbus::fdo::Error::InvalidArgs(error.to_string())
        })?;
        tracing::info!(%levels, "other levels from now on");
        self.log.set_levels(levels);
        Ok(())
    }
}

/// Tells every client of each message while that is enabled, until the outlets are gone. A signal that
/// is lost makes no message: that would be lost too.
pub(super) fn tell(log: &Log, outlets: Outlets, spawner: &Spawner) -> actors::runtime::Task<()> {
    let messages = log.listen();
    spawner.spawn("messages for clients", async move {
        while let Ok(message) = messages.recv().await {
            for outlet in &*outlets {
                let told = async {
                    let emitter = SignalEmitter::new(outlet.connection(), DEBUG_PATH)?;
                    Debug::new_debug_message(
                        &emitter,
                        message.time,
                        &message.domain,
                        message.level,
                        &message.text,
                    )
                    .await
                };
                told.await.unwrap_or_default();
            }
        }
    })
}
