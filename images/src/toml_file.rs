//! TOML read with errors that name file, line and key.

use std::ops::Range;
use std::path::Path;

use serde::de::DeserializeOwned;
use toml::Spanned;

use crate::error::ConfigError;

/// A TOML text and the file it came from.
pub(crate) struct TomlFile<'a> {
    pub(crate) path: &'a Path,
    pub(crate) text: &'a str,
}

impl TomlFile<'_> {
    pub(crate) fn parse<T: DeserializeOwned>(&self) -> Result<T, ConfigError> {
        toml::from_str(self.text).map_err(|error| {
            let problem = error.message().trim_end().replace('\n', "; ");
            ConfigError {
                file: self.path.to_owned(),
                line: error.span().map(|span| self.line(&span)),
                key: None,
                problem,
            }
        })
    }

    /// An error at a value that was read.
    pub(crate) fn wrong<T>(&self, key: &str, at: &Spanned<T>, problem: impl Into<String>) -> ConfigError {
        ConfigError {
            file: self.path.to_owned(),
            line: Some(self.line(&at.span())),
            key: Some(key.to_owned()),
            problem: problem.into(),
        }
    }

    /// An error about the file as a whole, such as a key that is missing.
    pub(crate) fn missing(&self, key: &str, problem: impl Into<String>) -> ConfigError {
        ConfigError {
            file: self.path.to_owned(),
            line: None,
            key: Some(key.to_owned()),
            problem: problem.into(),
        }
    }

    fn line(&self, span: &Range<usize>) -> usize {
        let before = self.text.as_bytes().get(..span.start).unwrap_or_default();
        before.iter().filter(|&&byte| byte == b'\n').count() + 1
    }
}
