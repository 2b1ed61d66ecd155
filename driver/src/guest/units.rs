//! Units by `systemctl`: jobs, properties. The same over an agent and over a shell.

use super::{Exec, Guest, GuestError};
use agent_proto::message::FailureKind;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

impl Guest {
    /// Starts a unit, and returns when systemd says that it has started.
    ///
    /// # Errors
    ///
    /// [`GuestError::Command`] with systemd's words if the job fails; [`GuestError::CommandTimeout`].
    pub async fn start_job(&self, unit: impl AsRef<str>, limit: Duration) -> Result<(), GuestError> {
        self.job("start", unit.as_ref(), limit).await
    }

    /// Stops a unit, and returns when systemd says that it has stopped.
    ///
    /// # Errors
    ///
    /// As [`Guest::start_job`].
    pub async fn stop_job(&self, unit: impl AsRef<str>, limit: Duration) -> Result<(), GuestError> {
        self.job("stop", unit.as_ref(), limit).await
    }

    async fn job(&self, verb: &str, unit: &str, limit: Duration) -> Result<(), GuestError> {
        let output = self.run(Exec::argv(["systemctl", verb, "--", unit]), limit).await?;
        self.text_of(&format!("{verb} {unit}"), output).map(drop)
    }

    /// All properties of a unit, as `systemctl show` has them. One that there is not has properties too:
    /// `LoadState=not-found`.
    ///
    /// # Errors
    ///
    /// [`GuestError::Command`] if systemd doesn't answer, or says that this is no name of a unit.
    pub async fn unit_info(
        &self,
        unit: impl AsRef<str>,
        limit: Duration,
    ) -> Result<BTreeMap<String, String>, GuestError> {
        let unit = unit.as_ref();
        let output = self.run(Exec::argv(["systemctl", "show", "--no-pager", "--", unit]), limit).await?;
        Ok(properties(&self.text_of(&format!("properties of {unit}"), output)?))
    }

    /// One property of a unit.
    ///
    /// # Errors
    ///
    /// As [`Guest::unit_info`]; [`GuestError::Refused`] if units of this kind have no such property.
    pub async fn unit_property(
        &self,
        unit: impl AsRef<str>,
        property: impl AsRef<str>,
        limit: Duration,
    ) -> Result<String, GuestError> {
        let (unit, property, begun) = (unit.as_ref(), property.as_ref(), Instant::now());
        let show = ["systemctl", "show", "--no-pager", "--property", property, "--", unit];
        let operation = format!("property {property} of {unit}");
        let text = self.text_of(&operation, self.run(Exec::argv(show), limit).await?)?;
        properties(&text).remove(property).ok_or_else(|| GuestError::Refused {
            machine: self.machine().to_owned(),
            operation,
            kind: FailureKind::NotFound,
            message: format!("{unit} has no property {property}"),
            elapsed: begun.elapsed(),
        })
    }
}

/// `NAME=VALUE` lines. A value that goes on in the next line goes on.
fn properties(text: &str) -> BTreeMap<String, String> {
    let mut all: BTreeMap<String, String> = BTreeMap::new();
    let mut last = String::new();
    for line in text.lines() {
        let named = line.split_once('=').filter(|(name, _)| is_name(name));
        match (named, all.get_mut(&last)) {
            (Some((name, value)), _) => {
                last = name.to_owned();
                // Some have several values, a line for each: ExecStart=, Listen=.
                all.entry(last.clone())
                    .and_modify(|earlier| {
                        earlier.push('\n');
                        earlier.push_str(value);
                    })
                    .or_insert_with(|| value.to_owned());
            }
            (None, Some(value)) => {
                value.push('\n');
                value.push_str(line);
            }
            (None, None) => {}
        }
    }
    all
}

/// Names of properties begin with a capital letter, and have letters and digits only.
fn is_name(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_uppercase())
        && name.chars().all(|letter| letter.is_ascii_alphanumeric())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn properties_are_read() {
        let text = "Type=oneshot\nExecStart={ path=/bin/a ; argv[]=/bin/a b=c }\nExecStart={ path=/bin/b }\n\
                    Description=two\n  lines=of it\nResult=\n";
        let all = properties(text);
        let value = |name| all.get(name).map(String::as_str);
        assert_eq!(value("Type"), Some("oneshot"));
        assert_eq!(value("ExecStart"), Some("{ path=/bin/a ; argv[]=/bin/a b=c }\n{ path=/bin/b }"));
        assert_eq!(value("Description"), Some("two\n  lines=of it"));
        assert_eq!(value("Result"), Some(""));
        assert_eq!(all.len(), 4);
    }
}
