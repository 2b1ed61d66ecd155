//! One QEMU option with its `key=value` list, escaped as QEMU's parser wants it.

use std::fmt::{self, Display};
use std::path::Path;

/// The value of one command-line option: a head and properties, such as `virtio-blk-pci,drive=disk0`.
///
/// A comma in a value is doubled, as QEMU's option parser asks for (`qemu(1)`, "Introduction").
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opts {
    text: String,
}

impl Opts {
    /// Starts with a head that has no key: a device, a back end.
    #[must_use]
    pub fn new(head: &str) -> Self {
        Self { text: escape(head) }
    }

    /// Starts without a head: the first property is the start of the value.
    #[must_use]
    pub fn keyed(key: &str, value: impl Display) -> Self {
        Self { text: format!("{key}={}", escape(&value.to_string())) }
    }

    /// Adds `key=value`.
    #[must_use]
    pub fn set(mut self, key: &str, value: impl Display) -> Self {
        self.text.push(',');
        self.text.push_str(key);
        self.text.push('=');
        self.text.push_str(&escape(&value.to_string()));
        self
    }

    /// Adds `key=value` for a path.
    #[must_use]
    pub fn path(self, key: &str, value: &Path) -> Self {
        self.set(key, value.display())
    }
}

impl Display for Opts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn escape(value: &str) -> String {
    value.replace(',', ",,")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commas_in_values_are_doubled() {
        let opts = Opts::new("socket").set("id", "a").path("path", Path::new("/tmp/a,b"));
        assert_eq!(opts.to_string(), "socket,id=a,path=/tmp/a,,b");
        assert_eq!(Opts::keyed("file", "x,y").set("unit", 0).to_string(), "file=x,,y,unit=0");
    }
}
