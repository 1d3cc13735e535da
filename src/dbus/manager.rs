//! The ConnectionManager object.

use std::collections::HashMap;

use actors::model::Error;
use zbus::{ObjectPath, OwnedObjectPath, object_server::SignalEmitter};

use super::{
    error::{Result, answered, read},
    protocol::immutable_properties,
    values::{self, Map, ParamSpec, ReceivedMap},
};
use crate::connection::{contacts::shortened, kept::KeptHandle, parameters::Account, protocol};

/// `ConnectionManager`.
#[derive(Debug)]
pub struct ConnectionManager {
    keeper: KeptHandle,
    login: String,
}

impl ConnectionManager {
    /// The object, which asks for connections through the keeper of tubes; `login` is what
    /// `published-name` is where it is not given.
    pub fn new(keeper: KeptHandle, login: String) -> Self {
        ConnectionManager { keeper, login }
    }
}

/// Whether there is such a protocol.
fn known(name: &str) -> actors::model::Result<()> {
    if name == protocol::PROTOCOL {
        return Ok(());
    }
    Err(Error::NotImplemented(format!(
        "there is no protocol '{}' here",
        shortened(name)
    )))
}

#[zbus::interface(
    name = "org.freedesktop.Telepathy.ConnectionManager",
    introspection_docs = false
)]
impl ConnectionManager {
    #[zbus(property(emits_changed_signal = "const"))]
    fn interfaces(&self) -> Result<Vec<String>> {
        read("Interfaces", || {
            values::strings(protocol::MANAGER_INTERFACES)
        })
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn protocols(&self) -> Result<HashMap<String, Map>> {
        read("Protocols", || {
            HashMap::from([(protocol::PROTOCOL.to_owned(), immutable_properties())])
        })
    }

    #[zbus(out_args("Protocols"))]
    async fn list_protocols(&self) -> Result<Vec<String>> {
        answered("ListProtocols", async {
            Ok(values::strings(&[protocol::PROTOCOL]))
        })
        .await
    }

    #[zbus(out_args("Parameters"))]
    async fn get_parameters(&self, protocol: String) -> Result<Vec<ParamSpec>> {
        answered("GetParameters", async move {
            known(&protocol)?;
            Ok(values::param_specs())
        })
        .await
    }

    #[zbus(out_args("Bus_Name", "Object_Path"))]
    async fn request_connection(
        &self,
        protocol: String,
        parameters: ReceivedMap,
    ) -> Result<(String, OwnedObjectPath)> {
        answered("RequestConnection", async move {
            known(&protocol)?;
            let account = Account::new(&values::given_map(&parameters), &self.login)?;
            let connection = self.keeper.request(account).await?;
            Ok((
                connection.bus_name.as_ref().to_owned(),
                values::object_path(&connection.path)?,
            ))
        })
        .await
    }

    #[zbus(signal)]
    pub(super) async fn new_connection(
        emitter: &SignalEmitter<'_>,
        bus_name: &str,
        object_path: ObjectPath<'_>,
        protocol: &str,
    ) -> zbus::Result<()>;
}
