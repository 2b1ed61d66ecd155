//! What this QEMU can do. Asked once, for distributions backport and leave out: a version says little.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use tokio::sync::OnceCell;

use crate::client::Client;
use crate::error::Error;

#[derive(Debug, Default)]
pub(crate) struct Probed {
    commands: OnceCell<BTreeSet<String>>,
    devices: OnceCell<BTreeSet<String>>,
    objects: OnceCell<BTreeSet<String>>,
    migration: OnceCell<BTreeSet<String>>,
}

impl Client {
    /// Whether there is such a command (`query-commands`).
    ///
    /// # Errors
    /// Those of [`Client::execute`].
    pub async fn has_command(&self, name: &str) -> Result<bool, Error> {
        let ask = || self.names("query-commands", Value::Null, "name");
        Ok(self.probed().commands.get_or_try_init(ask).await?.contains(name))
    }

    /// Whether there is such a device for `-device` and `device_add` (`qom-list-types`).
    ///
    /// # Errors
    /// Those of [`Client::execute`].
    pub async fn has_device(&self, driver: &str) -> Result<bool, Error> {
        let ask = || self.names("qom-list-types", json!({"implements": "device", "abstract": false}), "name");
        Ok(self.probed().devices.get_or_try_init(ask).await?.contains(driver))
    }

    /// Whether there is such an object for `-object` and `object-add`.
    ///
    /// # Errors
    /// Those of [`Client::execute`].
    pub async fn has_object(&self, kind: &str) -> Result<bool, Error> {
        let ask = || {
            self.names("qom-list-types", json!({"implements": "user-creatable", "abstract": false}), "name")
        };
        Ok(self.probed().objects.get_or_try_init(ask).await?.contains(kind))
    }

    /// The names of a device's properties (`device-list-properties`).
    ///
    /// # Errors
    /// [`Error::Refused`] if there is no such device, and those of [`Client::execute`].
    pub async fn device_properties(&self, driver: &str) -> Result<BTreeSet<String>, Error> {
        self.names("device-list-properties", json!({"typename": driver}), "name").await
    }

    /// Whether a migration capability is known, `mapped-ram` for one (`query-migrate-capabilities`).
    ///
    /// # Errors
    /// Those of [`Client::execute`].
    pub async fn has_migration_capability(&self, name: &str) -> Result<bool, Error> {
        let ask = || self.names("query-migrate-capabilities", Value::Null, "capability");
        Ok(self.probed().migration.get_or_try_init(ask).await?.contains(name))
    }

    /// The value of `key` in each entry of the list that a command returns. By name and not by type: an enumeration
    /// that has grown since the types were made would make the whole list unreadable.
    async fn names(&self, command: &str, arguments: Value, key: &str) -> Result<BTreeSet<String>, Error> {
        let answer = self.execute_raw(command, arguments).await?;
        let entries = answer.as_array().into_iter().flatten();
        Ok(entries.filter_map(|entry| entry.get(key)?.as_str().map(str::to_owned)).collect())
    }
}
